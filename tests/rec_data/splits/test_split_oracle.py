"""The split against the protocol written once more, slowly, in plain Python, on 300 random logs."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rec_data.config import Split, TieOrder
from rec_data.errors import DataError
from rec_data.splits.split import split_log

Rows = list[tuple[int, str, int]]
SEED = 7
tie_orders = st.sampled_from(["shuffle", "row_order"])


def filter_rows(rows: Rows, min_item: int, min_user: int) -> Rows:
    items = Counter(item for _, item, _ in rows)
    rows = [row for row in rows if items[row[1]] >= min_item]
    users = Counter(user for user, _, _ in rows)
    return [row for row in rows if users[row[0]] >= min_user]


def mix(value: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


def rank(seed: int, user: int, item: str) -> int:
    """The place of an event among those of the same user and time."""
    letters = sum((byte + 1) * 0xD1342543DE82EF95 ** (place + 1) for place, byte in enumerate(item.encode()))
    return mix(mix((mix(user) + seed * 0x9E3779B97F4A7C15) % 2**64) ^ mix(letters % 2**64))


def by_user(rows: Rows, ties: TieOrder) -> dict[int, list[tuple[str, int]]]:
    """Events of each user in order of time; Python's sort keeps the order of rows."""
    users: dict[int, list[tuple[str, int]]] = {}
    if ties == "shuffle":
        rows = sorted(rows, key=lambda row: rank(SEED, row[0], row[1]))
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        users.setdefault(user, []).append((item, time))
    return dict(sorted(users.items()))


def trainable(train) -> bool:
    return any(len(events) >= 2 for events in train.values())


def temporal(
    rows: Rows, fraction: float, share: float, ties: TieOrder, *, begin: int | None = None, tested: bool = True
):
    times = sorted(time for _, _, time in rows)
    boundary = times[int(len(times) * (1 - fraction))] if begin is None else begin
    past_users = sorted({user for user, _, time in rows if time < boundary})
    if not past_users:
        return None
    size = max(1, int(len(past_users) * share)) if share else 0
    chosen = set(np.random.default_rng(SEED).choice(past_users, size=size, replace=False).tolist())
    train = {
        user: kept
        for user, events in by_user(rows, ties).items()
        if user not in chosen and (kept := [event for event in events if event[1] < boundary])
    }
    catalogue = {item for events in train.values() for item, _ in events}
    validation, test = {}, {}
    for user, events in by_user(rows, ties).items():
        usable = [event for event in events if event[0] in catalogue]
        if user in chosen:
            usable = [event for event in events if event[1] < boundary and event[0] in catalogue]
            if len(usable) >= 2:
                validation[user] = (usable[:-1], usable[-1][0])
        elif user in train and any(time >= boundary for _, time in usable):
            test[user] = (usable[:-1], usable[-1][0])
    if not trainable(train) or (tested and not test) or (share and not validation):
        return None
    return train, validation, test, catalogue


def validated_in_time(rows: Rows, fraction: float, ties: TieOrder, *, begin: int | None = None):
    """The past is divided as the whole log is, and both futures are tested by the same rules."""
    times = sorted(time for _, _, time in rows)
    boundary = times[int(len(times) * (1 - fraction))] if begin is None else begin
    past = [time for time in times if time < boundary]
    if not past:
        return None
    start = past[int(len(past) * (1 - fraction))]
    users = by_user(rows, ties)
    train = {user: early for user, events in users.items() if (early := [e for e in events if e[1] < start])}
    catalogue = {item for events in train.values() for item, _ in events}

    def held_out(begin: int, end: float):
        part = {}
        for user in train:
            usable = [(item, time) for item, time in users[user] if item in catalogue and time < end]
            if usable[-1][1] >= begin:
                part[user] = (usable[:-1], usable[-1][0])
        return part

    validation, test = held_out(start, boundary), held_out(boundary, float("inf"))
    return (train, validation, test, catalogue) if trainable(train) and validation and test else None


def as_the_paper(rows: Rows, fraction: float, share: float, ties: TieOrder):
    """The test of the paper's code, step by step: frames of events, sets of users, and the last event of each user."""
    if (ours := temporal(rows, fraction, share, ties, tested=False)) is None:
        return None
    train, validation, _, catalogue = ours
    boundary = sorted(time for _, _, time in rows)[int(len(rows) * (1 - fraction))]
    known_in_past = {item for _, item, time in rows if time < boundary}
    future_users = {user for user, item, time in rows if time >= boundary and item in known_in_past}
    of_past = {user for user, item, time in rows if time < boundary and item in catalogue}
    validating = of_past - train.keys()
    pool = [row for row in rows if row[0] in future_users - validating and row[1] in catalogue]
    held_out = {user: (events[:-1], events[-1][0]) for user, events in by_user(pool, ties).items() if len(events) > 1}
    test = {user: both for user, both in held_out.items() if user in train}
    untested = {user: events for user, (events, _) in held_out.items() if user not in train}
    return (train, validation, test, untested, catalogue) if test else None


def leave_one_out(rows: Rows, ties: TieOrder):
    train, validation, test = {}, {}, {}
    for user, events in by_user(rows, ties).items():
        train[user] = events
        if len(events) >= 3:
            train[user] = events[:-2]
            validation[user] = (events[:-2], events[-2][0])
            test[user] = (events[:-1], events[-1][0])
    return (train, validation, test, {item for _, item, _ in rows}) if test and trainable(train) else None


def counts(rows: Rows, boundary: int | None):
    """What the summary says of the times of a filtered log."""
    copies = Counter(rows)
    distinct = Counter((user, time) for user, _, time in copies)
    return {
        "tied_interactions": sum(distinct[user, time] > 1 for user, _, time in rows),
        "duplicate_interactions": len(rows) - len(copies),
        "copies_of_every_row": min(copies.values()),
        "future_share": None if boundary is None else sum(time >= boundary for _, _, time in rows) / len(rows),
    }


def read_part(folder: Path, name: str):
    """A part with the original ids in place of the dense ones."""
    users = dict(pl.read_parquet(folder / "users.parquet").rows())
    items = {item: original for item, original, _ in pl.read_parquet(folder / "items.parquet").rows()}
    part = {}
    for user, history, times, *target in pl.read_parquet(folder / f"{name}.parquet").rows():
        events = list(zip((items[item] for item in history), times, strict=True))
        part[users[user]] = (events, items[target[0]]) if target else events
    return part


few_rows = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from("abcdef"), st.integers(0, 25)), min_size=1, max_size=20
)


@st.composite
def many_rows(draw):
    """Logs dense enough that most of them can be split."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    users, items, times = (draw(st.integers(2, high)) for high in (12, 8, 60))
    size = draw(st.integers(20, 90))
    drawn = (rng.integers(0, high, size).tolist() for high in (users, items, times))
    return [(user, "abcdefgh"[item], time) for user, item, time in zip(*drawn, strict=True)]


@st.composite
def sparse_rows(draw):
    """Logs of many users with few events, whose items come up and go as time passes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    times = np.sort(rng.integers(0, 60, 80))
    items = np.clip(times // 10 + rng.integers(-2, 3, 80), 0, 7).tolist()
    return [
        (user, "abcdefgh"[item], time)
        for user, item, time in zip(rng.integers(0, 30, 80).tolist(), items, times.tolist(), strict=True)
    ]


logs = few_rows | many_rows() | sparse_rows()


def run(rows: Rows, folder: Path, settings: Split, **arguments):
    log, out = folder / "log.parquet", folder / "split"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(log)
    out.mkdir()
    try:
        split_log(log, out, settings, **arguments)
    except DataError:
        assert not list(out.iterdir())
        return None
    parts = ("train", "validation", "test", "untargeted")
    return tuple(read_part(out, name) for name in parts if (out / f"{name}.parquet").exists()), out


@settings(max_examples=120, deadline=None)
@given(
    logs,
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.3, 0.5]),
    st.sampled_from([0.05, 0.2, 0.4]),
    st.booleans(),
    tie_orders,
)
@example([(u, "ab"[u % 2], t) for t in range(6) for u in (1, 2, 3)], 1, 1, 0.5, 0.05, False, "shuffle")
def test_temporal(rows, min_item, min_user, fraction, share, paper_faithful, ties):
    kept = filter_rows(rows, min_item, min_user)
    expected = None
    if len({user for user, _, _ in kept}) > 1 and len({item for _, item, _ in filter_rows(rows, min_item, 1)}) > 1:
        expected = (as_the_paper if paper_faithful else temporal)(kept, fraction, share, ties)
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            rows,
            Path(folder),
            Split(
                test_fraction=fraction,
                validation_users=share,
                min_item_count=min_item,
                min_user_count=min_user,
            ),
            seed=SEED,
            paper_faithful=paper_faithful,
            tie_seed=SEED if ties == "shuffle" else None,
        )
        assert (found is None) == (expected is None)
        if found is not None:
            assert found[0] == expected[:-1]
            check_ids(found[1], expected)
            check_counts(found[1], kept)


def check(rows: Rows, choices: Split, oracle, ties: TieOrder):
    """Compare the files of a split with those that the oracle expects of the filtered rows, or both refuse."""
    min_item, min_user, written = choices.min_item_count, choices.min_user_count, rows
    if choices.test_until is not None:
        rows = [row for row in rows if row[2] < choices.test_until]
    kept, expected = filter_rows(rows, min_item, min_user), None
    if len({user for user, _, _ in kept}) > 1 and len({item for _, item, _ in filter_rows(rows, min_item, 1)}) > 1:
        expected = oracle(kept)
    with tempfile.TemporaryDirectory() as folder:
        found = run(written, Path(folder), choices, seed=SEED, tie_seed=SEED if ties == "shuffle" else None)
        assert (found is None) == (expected is None)
        if found is not None:
            assert found[0] == expected[:-1]
            check_ids(found[1], expected)
            check_counts(found[1], kept)


@settings(max_examples=60, deadline=None)
@given(logs, st.integers(1, 2), st.integers(1, 2), st.sampled_from([0.1, 0.3, 0.5]), tie_orders)
def test_validation_in_time(rows, min_item, min_user, fraction, ties):
    choices = Split(validation="time", test_fraction=fraction, min_item_count=min_item, min_user_count=min_user)
    check(rows, choices, lambda kept: validated_in_time(kept, fraction, ties), ties)


@settings(max_examples=80, deadline=None)
@given(logs, st.integers(1, 2), st.integers(4, 30), st.none() | st.integers(10, 60), st.booleans(), tie_orders)
def test_a_window(rows, least, begin, until, in_time, ties):
    choices = Split(
        test_from=begin,
        test_until=until,
        test_fraction=0.3,
        validation="time" if in_time else "users",
        validation_users=0.2,
        min_item_count=least,
        min_user_count=1,
    )

    def oracle(kept):
        if in_time:
            return validated_in_time(kept, 0.3, ties, begin=begin)
        return temporal(kept, 0.3, 0.2, ties, begin=begin)

    check(rows, choices, oracle, ties)


@settings(max_examples=60, deadline=None)
@given(logs, st.integers(1, 2), st.integers(1, 3), tie_orders)
def test_leave_one_out(rows, min_item, min_user, ties):
    choices = Split(strategy="leave_one_out", min_item_count=min_item, min_user_count=min_user)
    check(rows, choices, lambda kept: leave_one_out(kept, ties), ties)


def check_counts(folder: Path, rows: Rows):
    summary = json.loads((folder / "summary.json").read_text())
    expected = counts(rows, summary["boundary_time"])
    assert {key: summary[key] for key in expected} == expected


def check_ids(folder: Path, expected):
    *parts, catalogue = expected
    train = parts[0]
    items = pl.read_parquet(folder / "items.parquet")
    assert items["item_id"].to_list() == list(range(len(catalogue)))
    assert items["original_id"].to_list() == sorted(catalogue)
    counts = Counter(item for events in train.values() for item, _ in events)
    assert items["count"].to_list() == [counts[item] for item in sorted(catalogue)]
    users = pl.read_parquet(folder / "users.parquet")
    assert users["user_id"].to_list() == list(range(len(users)))
    assert users["original_id"].to_list() == sorted(set().union(*parts))
