"""The last lines of a run name the result, the report and a command that works."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutrec.reporting.summary import summary

PAGE = Path("data/report/report.html")


def run_of(user: object = None, *, twin: bool = False) -> Any:
    """What `summary` reads of a run."""
    return SimpleNamespace(
        training={"epoch_seconds": 1.468, "peak_memory_gib": 1.341},
        evaluation={} if twin else {"ndcg@10": 0.538978, "popularity": {"ndcg@10": 0.034025}, "users": 1539},
        details=None if twin else {"examples": [{"user": user}]},
    )


@pytest.mark.parametrize(
    ("user", "option"),
    [
        (4711, "--user 4711"),
        ("CUST-015136", "--user CUST-015136"),
        (-7, "--user=-7"),
        ("Ann's; rm", "--user 'Ann'\"'\"'s; rm'"),
    ],
)
def test_a_run_ends_with_its_result_and_the_next_command(user: object, option: str):
    assert summary(run_of(user), PAGE) == [
        "Result: NDCG@10 0.5390, by popularity 0.0340, over 1,539 test users",
        "Report: data/report/report.html",
        f"Next: uv run cutrec recommend {option}",
    ]


def test_a_queued_experiment_says_how_its_outputs_come_into_the_checkout():
    result, following = summary(run_of(1), PAGE, "exact")
    assert result.startswith("Result: NDCG@10 0.5390")
    assert (
        following == "Next: uv run dvc exp apply exact, which brings its model and data/report/report.html into data/"
    )


def test_a_synthetic_log_has_no_accuracy():
    assert summary(run_of(twin=True), PAGE) == [
        "Result: an epoch took 1.47 s and 1.34 GiB; a synthetic log has no accuracy",
        "Report: data/report/report.html",
    ]
