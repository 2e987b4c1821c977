"""Windows of two logs, and how much they differ."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rec_data.drift import compare_logs, jensen_shannon, largest_gap
from rec_data.errors import DataError

DAY = 86_400
START = 1_700_000_000 - 1_700_000_000 % DAY


def write(path: Path, rows: list[tuple[object, object, float]], *, ticks: int = 1) -> Path:
    """A log of (user, item, day)."""
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "day"], orient="row")
    time = (START + pl.col("day") * DAY).round().cast(pl.Int64) * ticks
    frame.select("user_id", "item_id", time.alias("timestamp")).write_parquet(path)
    return path


def events(first: int, days: int, items: str, *, users: int = 2) -> list[tuple[object, object, float]]:
    """Every user meets every item on each day, at different times of the day that span all of it."""
    return [
        (user, item, day + place / (len(items) - 1) * 0.99999)
        for day in range(first, first + days)
        for user in range(users)
        for place, item in enumerate(items)
    ]


def test_the_measures_of_hand_worked_windows(tmp_path: Path):
    """Windows of a day: two items are replaced, one of them is new to the log and one came a day ago."""
    a = write(tmp_path / "a.parquet", [*events(0, 4, "abcd"), *events(4, 1, "abce")])
    b = write(tmp_path / "b.parquet", events(5, 1, "abef", users=4), ticks=1000)
    found = compare_logs(a, b, min_item_count=3)
    assert [window.events for window in found.windows] == [8, 8, 8, 8, 8, 16]
    assert [window.users for window in found.windows] == [2, 2, 2, 2, 2, 4]
    assert found.windows[0].begin.startswith("2023-11-14 00:00")
    assert found.left_out == 0
    *_, before, last = found.windows
    assert before[4:] == pytest.approx((2 / 5, 1 / 4, 0.0, 1 / 4))  # d went, e came: of 5 items, 3 are in both
    assert last[4:] == pytest.approx((2 / 5, 1 / 4, 0.0, 2 / 4))  # c went, f came; e has too few events before
    assert np.isnan(found.windows[0][4:]).all()
    assert found.windows[2][4:7] == (0, 0, 0)
    assert {(change.item, change.before, change.after) for change in found.changes[:2]} == {
        ("c", 0.25, 0),
        ("f", 0, 0.25),
    }
    known = compare_logs(a, b, min_item_count=3, known=pa.array(list("abcdef")))
    assert known.windows[-1].unknown == 0
    assert known.windows[-2].unknown == 1 / 4


def test_what_a_longer_log_repeats_is_left_out(tmp_path: Path):
    a = write(tmp_path / "a.parquet", events(0, 6, "ab"))
    b = write(tmp_path / "b.parquet", events(0, 7, "ab", users=6))
    found = compare_logs(a, b, min_item_count=1)
    assert found.left_out == 72
    assert [window.events for window in found.windows] == [4] * 6 + [12]
    assert found.windows[-1][4:] == (0, 0, 0, 0)


def test_dates_make_whole_days(tmp_path: Path):
    """All events of a day are at midnight: the length of one day is not 0."""
    rows = [(user, "ab"[user % 2], day) for day in range(7) for user in range(4)]
    a = write(tmp_path / "a.parquet", rows)
    b = write(tmp_path / "b.parquet", [(user, "ab"[user % 2], 7) for user in range(10)])
    assert [window.events for window in compare_logs(a, b, min_item_count=1).windows] == [4] * 7 + [10]


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (events(0, 5, "ab"), events(3, 1, "ab"), r"^B: found 0 events after the last one of A, 2023-11-18"),
        (
            events(0, 3, "ab"),
            events(3, 1, "ab", users=5),
            r"^A: found [23] windows of the length of B \(1 days\), allowed",
        ),
        (events(0, 1, "ab"), events(1, 1, "ab", users=5), r"^A: found [01] windows of the length of B"),
        (events(0, 6, "ab"), events(6, 1, "xy", users=5), r"^A and B: found no item in both, allowed: two logs"),
        ([(1, 2, -START / DAY)], events(6, 1, "xy"), r"^A: found no times, or positions instead of Unix times"),
        (events(0, 6, "ab"), [(1, 2, -START / DAY)], r"^B: found no times"),
    ],
)
def test_logs_that_cannot_be_compared_are_refused(a: list, b: list, said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said) as caught:
        compare_logs(write(tmp_path / "a.parquet", a), write(tmp_path / "b.parquet", b), min_item_count=1)
    assert "\n" not in str(caught.value)


def test_the_divergence_and_the_gap_agree_with_scipy():
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import ks_2samp

    random = np.random.default_rng(0)
    one, other = random.poisson(2, 50).astype(float), random.poisson(2, 50).astype(float)
    assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, 2) ** 2)
    assert jensen_shannon(one, one) == pytest.approx(0, abs=1e-12)
    samples = np.sort(random.poisson(3, 40)), np.sort(random.poisson(4, 70))
    assert largest_gap(*samples) == pytest.approx(ks_2samp(*samples).statistic)
