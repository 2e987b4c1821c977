"""The windows of a backtest, and the test of a later window, against the rules in plain Python on random logs."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.splits.split import split_log
from rec_data.splits.windows import Window, split_later, windows_of

START = 1_600_000_000
rows_of_logs = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("abcdef"), st.integers(START, START + 400)), min_size=12, max_size=60
)


def write(rows, folder):
    log = Path(folder) / "log.parquet"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(log)
    return log


@settings(max_examples=150, deadline=None)
@given(
    rows_of_logs, st.integers(2, 4), st.sampled_from([0.1, 0.2, 0.3]), st.none() | st.integers(START + 50, START + 400)
)
def test_windows_share_the_end_of_the_log(rows, count, share, until):
    times = sorted(time for _, _, time in rows if until is None or time < until)
    assume(times)
    begins = [times[int(len(times) * (1 - share * (count - number)))] for number in range(count) if count * share < 1]
    with tempfile.TemporaryDirectory() as folder:
        log = write(rows, folder)
        if not begins or begins[0] == times[0] or len(set(begins)) < count:
            with pytest.raises(DataError, match=r"^--windows: found"):
                windows_of(log, count, share=share, until=until)
            return
        found = windows_of(log, count, share=share, until=until)
    assert [window.begin for window in found] == begins
    assert [window.end for window in found] == [*begins[1:], times[-1] + 1]


def test_windows_of_days(tmp_path):
    day = 86_400
    log = write([(1, "a", START + day * number) for number in range(20)], tmp_path)
    last = START + 19 * day + 1
    assert windows_of(log, 2, share=0.1, days=7) == [
        Window(last - 14 * day, last - 7 * day),
        Window(last - 7 * day, last),
    ]
    with pytest.raises(DataError, match=r"^--windows: found 3 of --days 7, and no interaction lies before the first"):
        windows_of(log, 3, share=0.1, days=7)


def test_positions_have_no_windows(tmp_path):
    log = write([(user, "a", number) for user in (1, 2) for number in range(20)], tmp_path)
    with pytest.raises(DataError, match=r"^--windows: found times up to 19, which are positions .* a clock"):
        windows_of(log, 2, share=0.1)


def read(folder, name):
    """A part as {user: (events, target)} with the original ids."""
    users, items = (dict(pl.read_parquet(folder / f"{file}.parquet").select(key, "original_id").rows())
                    for file, key in (("users", "user_id"), ("items", "item_id")))  # fmt: skip
    part = {}
    for user, history, times, *target in pl.read_parquet(folder / f"{name}.parquet").rows():
        events = list(zip((items[item] for item in history), times, strict=True))
        part[users[user]] = (events, items[target[0]] if target else None)
    return part


def days_apart(rows):
    """No two events of a user at the same time, whose order would depend on the seed."""
    return list({(user, time): (user, item, time) for user, item, time in rows}.values())


@pytest.mark.parametrize("seed", range(16))
def test_a_later_window_is_tested_on_what_the_earlier_split_knows(seed):
    rng = np.random.default_rng(seed)
    users, items, times = (rng.integers(0, high, 110).tolist() for high in (12, 9, 400))
    rows = days_apart([(user, "abcdefghi"[item], time) for user, item, time in zip(users, items, times, strict=True)])
    first, gap = int(rng.integers(150, 200)), int(rng.integers(10, 120))
    target, validation = ["last", "first"][seed % 2], ["users", "time"][seed // 2 % 2]
    begin, end = first + gap, first + 2 * gap
    base = Split(test_from=first, test_until=begin, validation=validation, validation_users=0.3, min_item_count=2,
                 min_user_count=2)  # fmt: skip
    later = Split(test_from=begin, test_until=end, target=target)
    with tempfile.TemporaryDirectory() as place:
        log, split, out = write(rows, place), Path(place) / "split", Path(place) / "out"
        split.mkdir()
        out.mkdir()
        split_log(log, split, base)
        train, validated = read(split, "train"), read(split, "validation")
        catalogue = set(pl.read_parquet(split / "items.parquet")["original_id"])
        expected = {}
        for user in {user for user, _, _ in rows} - (validated.keys() if validation == "users" else set()):
            events = sorted(
                (time, item) for who, item, time in rows if who == user and item in catalogue and time < end
            )
            new = [place for place, (time, _) in enumerate(events) if time >= begin]
            if new and events[0][0] < begin:
                chosen = new[-1] if target == "last" else new[0]
                expected[user] = ([(item, time) for time, item in events[:chosen]], events[chosen][1])
        arguments = {"seed": 42, "filter_seen": True, "tie_seed": 42}
        if not expected:
            with pytest.raises(DataError, match="leaves no test user"):
                split_later(log, split, out, later, **arguments)
            return
        summary = split_later(log, split, out, later, **arguments)
        assert read(out, "test") == expected
        assert read(out, "train") == train
        assert pl.read_parquet(out / "items.parquet").equals(pl.read_parquet(split / "items.parquet"))
        returning = {
            user
            for user, item, time in rows
            if item in catalogue and time < begin and not (validation == "users" and user in validated)
        }
        late = [item in catalogue for user, item, time in rows if user in returning and begin <= time < end]
        assert summary["unknown_items_share"] == pytest.approx(1 - sum(late) / len(late))
