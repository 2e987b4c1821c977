"""The page says what was measured, and says so for twins, paper-faithful runs and other settings too."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

from pipelines import report
from pipelines.params import Evaluate, Params

TRAINING = {"best_epoch": 2, "epoch_seconds": 1.5, "peak_memory_gib": 0.25, "device": "cpu", "tokens_per_second": 12345}
MODEL = {f"{metric}@10": 0.5 for metric in report.ACCURACY | report.BEYOND}
EVALUATION = {**MODEL, "popularity": dict.fromkeys(MODEL, 0.1), "users": 1200, "rank_seconds": 2.0}
AT_K = [
    {
        "k": k,
        **{
            f"{prefix}{metric}": k / 100 for prefix in ("", "popularity_") for metric in report.ACCURACY | report.BEYOND
        },
    }
    for k in (1.0, 10.0)
]
SUMMARY = {
    "users": 1200,
    "train": {"interactions": 54321},
    "test": {"users": 1200, "unreachable_targets": 7, "targets_unseen_in_train": 3},
    "boundary_time": 1_700_000_000_000,
    "timestamp_unit": "ms",
}


def page(point: Params | None = None, evaluation: dict[str, Any] | None = None, at_k: list[Any] | None = None) -> str:
    return report.write_page(point or Params(), SUMMARY, TRAINING, evaluation or EVALUATION, at_k or AT_K)


def test_the_headline_compares_with_popularity():
    assert (
        "**NDCG@10 is 0.5000**, 5.0 times that of the ranking by popularity (0.1000), over 1,200 test users" in page()
    )


def test_a_baseline_of_zero_is_no_division():
    nothing = EVALUATION | {"popularity": dict.fromkeys(MODEL, 0.0)}
    assert "**NDCG@10 is 0.5000**, over 1,200 test users" in page(evaluation=nothing)


def test_a_twin_reports_no_accuracy():
    text = page(
        dataclasses.replace(Params(), dataset="twin:zvuk"),
        {"users": 1200, "rank_seconds": 2.0},
        [{"k": 1.0}, {"k": 10.0}],
    )
    assert "nothing to learn" in text
    assert "1,200 users were ranked in 2.0 s" in text
    assert "NDCG@10 is" not in text


def test_settings_that_change_the_meaning_of_a_number_are_said():
    text = page(
        dataclasses.replace(Params(), paper_faithful=True, evaluate=Evaluate(filter_seen=False, reference="test_input"))
    )
    assert "repeats the known defects of the paper's code" in text
    assert "items of the user's own history stay in" in text
    assert "count in the histories of the test users" in text


def test_every_setting_and_every_fact_of_the_data_is_listed():
    text = page()
    assert "| train.patience | 4 |" in text
    assert "| losses.sce.mix_x | true |" in text
    assert "| evaluate.k | 1, 5, 10, 20, 100 |" in text
    assert "| train.interactions | 54,321 |" in text
    assert "| boundary | 2023-11-14 22:13:20+00:00 |" in text


def test_targets_that_no_list_can_hold_are_counted():
    assert "7 of their targets are in their own history, so no list can hold them; 3 of their targets never" in page()
    kept = dataclasses.replace(Params(), evaluate=Evaluate(filter_seen=False))
    assert "own history, so" not in page(kept)


def test_tables_have_a_row_for_each_k_and_ranking():
    rows = [line for line in page().splitlines() if line.startswith(("| 1 |", "| 10 |"))]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 1", "model", "0.0100"],
        ["| 1", "popularity", "0.0100"],
        ["| 10", "model", "0.1000"],
        ["| 10", "popularity", "0.1000"],
    ]


def test_pictures_are_drawn(tmp_path: Path):
    history = [{"epoch": float(n), "train_loss": 3.0 / n, "validation_ndcg@10": n / 10} for n in (1, 2, 3)]
    report.draw_training(history, 2, tmp_path / "training.png")
    report.draw_accuracy(AT_K, tmp_path / "at_k.png")
    for name in ("training.png", "at_k.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_empty_fields_of_a_csv_are_no_number(tmp_path: Path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["k", "ndcg"], [1, ""], [5, 0.5]])
    first, second = report._read_csv(tmp_path / "a.csv")
    assert first["ndcg"] != first["ndcg"]
    assert second == {"k": 5.0, "ndcg": 0.5}
