"""What limits a result: the test beside popularity and its number of users, after what the split and training say."""

from typing import Any

from cutrec.config_point import Config
from cutrec.environment import Code
from cutrec.reporting.limits import limits
from cutrec.reporting.remarks import Remark, no_gain
from cutrec.reporting.run_outputs import RunOutputs
from rec_data.config import Split
from tests.cutrec.reporting.test_remarks import PLAIN, TRAINED


def limits_of(
    model: float, baseline: float, p_value: float, half: float | None, split: dict[str, Any], config: Config
) -> list[Remark]:
    """The remarks on a run with these NDCG@10, p-value of the difference and half interval of the model, if any."""
    bounds = {"low": "", "high": ""} if half is None else {"low": str(model - half), "high": str(model + half)}
    row = {"ranking": "model", "metric": "ndcg", "k": "10", "value": str(model), **bounds}
    run = RunOutputs(
        asked=config,
        config=config,
        source={},
        download={},
        split={**PLAIN, "strategy": config.split.strategy, "validation": {"users": 1000}, **split},
        training=TRAINED,
        history=[],
        evaluation={"users": 1000, "ndcg@10": model, "popularity": {"ndcg@10": baseline}},
        memory={},
        details={"comparison": [{"metric": "ndcg@10", "p_value": str(p_value)}], "intervals": [row]},
        decided={},
        code=Code("", []),
    )
    return limits(run)


def test_a_result_is_limited_by_few_users_and_by_popularity():
    leave_one_out = Config(split=Split(strategy="leave_one_out"))
    assert limits_of(0.5, 0.1, 0.01, 0.049, {}, Config()) == []
    (few,) = limits_of(0.5, 0.1, 0.01, 0.1, {}, leave_one_out)
    assert few.chip == "1,000 test users: ±20%"
    assert few.line.startswith("with 1,000 test users, NDCG@10 is only known to within 20% of its value: ")
    assert "test_fraction" not in few.cure
    (more,) = limits_of(0.5, 0.1, 0.01, 0.1, {}, Config())
    assert "a larger split.test_fraction" in more.cure
    _, nothing = limits_of(0.0, 0.0, 1.0, None, {}, Config())
    assert nothing.chip == "Too few test users: 1,000"
    assert "1,000 test users are too few, or too few of them were hit, for an interval of NDCG@10: " in nothing.line
    (unsure,) = limits_of(0.5, 0.49, 0.06, 0.01, {}, Config())
    assert unsure.chip == "Gain over popularity uncertain"
    (none,) = limits_of(0.1, 0.1, 0.5, 0.001, {}, Config())
    assert none == no_gain("test", 0.1, 0.1, 0.009)
    assert "train.patience" in none.cure
    first, repeats = limits_of(0.1, 0.2, 0.5, 0.001, {"test": {"users": 10, "unreachable_targets": 5}}, Config())
    assert "50% of the test targets are in the history" in first.cure
    assert (repeats.chip, repeats.changes) == ("Repeats: 50% of targets", {"evaluate.filter_seen": False})


def test_a_synthetic_log_and_the_papers_defects_are_named_and_nothing_else():
    point = Config(dataset="twin:zvuk", paper_faithful=True)
    assert [remark.name for remark in limits_of(0.1, 0.1, 1.0, 0.0, {}, point)] == ["defects", "synthetic"]
