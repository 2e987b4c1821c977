"""The tables and the page of a backtest: means and intervals over windows, and differences where both models are."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cutrec.outputs import write_json
from cutrec.reporting.backtest import (
    difference,
    interval,
    mean_interval,
    means,
    table,
    write_backtest,
)
from cutrec.reporting.backtest_results import DIFFERENCE, SHARED, Training, Value, read_shared, read_window
from rec_eval import Evaluation, write_evaluation


def test_the_interval_of_a_mean():
    """Mean 2, standard deviation 1, three values: 2 +- 4.3027 / sqrt(3)."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    mean, low, high = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def window(number: int, trained: str, ranking: str, value: float) -> list[Value]:
    """One window of one series: NDCG and Recall at 10, and the other metrics of the page."""
    dates = f"2024-0{number}-01 00:00:00", f"2024-0{number + 1}-01 00:00:00"
    unknown = 0.25 if trained == "once" and number > 1 else math.nan
    return [
        Value(number, *dates, trained, ranking, metric, 10, value, value - 0.01, value + 0.01, 500, unknown)
        for metric in ("ndcg", "recall", "mrr", "coverage", "surprisal")
    ]


def results(*, once: bool = True) -> list[list[Value]]:
    """Three windows of a model per window and of popularity, and of the first model."""
    found = [
        window(number, "per window", "model", 0.1 * number) + window(number, "per window", "popularity", 0.05)
        for number in (1, 2, 3)
    ]
    if once:
        older = enumerate([0.1, 0.1, 0.2], 1)
        found += [window(number, "once", "model", value) for number, value in older]
        shared = {"per window": 0.15, "once": 0.1, DIFFERENCE["once"]: 0.05}
        found += [
            window(number, trained, SHARED["once"], value) for number in (2, 3) for trained, value in shared.items()
        ]
    return found


def test_means_are_over_the_windows_that_have_a_value():
    found = {(mean.trained, mean.ranking): mean for mean in means(results()) if mean.metric == "ndcg"}
    assert found["per window", "model"].mean == pytest.approx(0.2)
    assert found["per window", "popularity"][4:7] == pytest.approx((0.05, 0.05, 0.05))
    assert found[DIFFERENCE["once"], SHARED["once"]].windows == 2
    assert found[DIFFERENCE["once"], SHARED["once"]].mean == pytest.approx(0.05)
    assert difference(results(once=False)) is None
    assert "by +0.0500 (+0.0500 to +0.0500), over 2 windows after the first" in str(difference(results()))


def test_the_table_has_a_row_per_window_and_the_mean():
    header, *rows = table(results())
    assert header[3:] == (
        "trained per window", "trained before the first window", "gain on shared targets", "popularity",
        "on unknown items",
    )  # fmt: skip
    assert [row[0] for row in rows] == ["1", "2", "3", "mean"]
    assert rows[1][1:6] == (
        "2024-02-01 00:00", "500", "0.2000 (0.1900 to 0.2100)", "0.1000 (0.0900 to 0.1100)",
        "+0.0500 (+0.0400 to +0.0600)",
    )  # fmt: skip
    assert [row[5] for row in rows[::3]] == ["", "+0.0500 (+0.0500 to +0.0500)"]
    assert [row[-1] for row in rows] == ["", "25.0%", "25.0%", ""]
    assert table(results(once=False))[0][3:] == ("trained per window", "popularity")


def test_a_window_of_too_few_users_says_so():
    few = [[value._replace(low=math.nan, high=math.nan) for value in window] for window in results(once=False)]
    _, *rows = table(few)
    assert rows[0][3:] == ("0.1000 (too few users)", "0.0500 (too few users)")
    assert "too few" not in str(rows[-1])
    assert interval(0.5, math.nan, math.nan) == "0.5000"


def test_the_page_needs_no_other_file_and_empty_intervals_are_empty_cells(tmp_path: Path):
    found = results()
    found[0][3] = found[0][3]._replace(low=math.nan, high=math.nan)
    write_backtest(
        found, [Training(1, "per window", 20, 12, 30.5)], tmp_path, title="A <log>", command="uv run cutrec backtest"
    )
    page = (tmp_path / "backtest.html").read_text()
    assert "A &lt;log&gt;" in page
    assert page.count('src="data:image/png;base64,') == page.count("src=") == 1
    assert "training again for each window" in page
    rows = list(csv.DictReader((tmp_path / "windows.csv").open()))
    assert len(rows) == 3 * 10 + 3 * 5 + 6 * 5
    assert (rows[3]["value"], rows[3]["low"], rows[3]["unknown"]) == ("0.1", "", "")
    pixels = imread(tmp_path / "ndcg.png")
    assert (pixels[:, [0, 1, -2, -1]] == 1).all()  # white: the legend is not cut off
    assert len(list(csv.DictReader((tmp_path / "means.csv").open()))) == 6 * 5


def test_the_metrics_of_a_window_are_those_of_its_evaluation(tmp_path: Path):
    (tmp_path / "split").mkdir()
    (tmp_path / "evaluate" / "details").mkdir(parents=True)
    write_json(tmp_path / "split" / "summary.json", {"unknown_items_share": 0.5})
    text = "ranking,metric,k,value,low,high,users\nmodel,ndcg,10,0.25,0.2,0.3,9\nmodel,coverage,10,0.5,,,9\n"
    (tmp_path / "evaluate" / "details" / "intervals.csv").write_text(text)
    first, second = read_window(tmp_path, 2, ("a", "b"), "once")
    assert first == Value(2, "a", "b", "once", "model", "ndcg", 10, 0.25, 0.2, 0.3, 9, 0.5)
    assert (second.value, second.users) == (0.5, 9)
    assert math.isnan(second.low)


def test_models_are_compared_on_the_users_and_targets_of_both(tmp_path: Path):
    """Ann's first target is an item that the older model does not know, Bob is new, and Cid has another target."""
    runs = {
        "evaluate": (["ann", "ann", "ann", "bob", "cid"], [9, 5, 5, 5, 7], [1.0, 0.5, 0.0, 1.0, 1.0]),
        "rolled/evaluate": (["ann", "ann", "cid"], [5, 5, 6], [0.1, 0.3, 1.0]),
    }
    for name, (users, targets, values) in runs.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        run = Evaluation((10,), {"ndcg@10": np.array(values)}, {}, 3, 0, 0, np.array(users), np.array(targets))
        write_evaluation(run, folder / "per_user.parquet")
    newer, older, gain = read_shared(tmp_path, 2, ("a", "b"))
    assert (newer.trained, newer.ranking, newer.metric, newer.k) == ("per window", SHARED["once"], "ndcg", 10)
    assert (newer.value, newer.users) == (0.25, 1)
    assert (older.trained, older.value) == ("once", pytest.approx(0.2))
    assert (gain.trained, gain.value, gain.users) == (DIFFERENCE["once"], pytest.approx(0.05), 1)
