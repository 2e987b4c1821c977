"""Which interaction is the target, against the rules written once more in plain Python, on random logs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.targets import TargetRule, hold_out
from tests.rec_data.splits.whole import leave_one_out, temporal

CHOICES = ("last", "first", "random", "successive")
rules = st.builds(TargetRule, st.sampled_from(CHOICES), st.sampled_from(["keep", "drop"]), st.integers(0, 3))
histories = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=14), min_size=2, max_size=8
).filter(any)


def log_of(users):
    """A sorted log of the events (item, time) of users 0, 1, ..., some of whom may have none."""
    users = [sorted(events, key=lambda event: event[1]) for events in users]
    flat = [event for events in users for event in events]
    items, times = (np.array([event[place] for event in flat], dtype=kind) for place, kind in ((0, "i4"), (1, "i8")))
    return SortedLog(np.cumsum([0, *map(len, users)]), items, times, num_items=5), users


def allowed(events, candidates, rule):
    """The places in ``events`` that may be the target, of those that are candidates; a history comes before each."""
    found = [place for place in candidates if place > 0]
    if rule.seen == "drop":
        found = [place for place in found if events[place][0] not in {item for item, _ in events[:place]}]
    return {"last": found[-1:], "first": found[:1]}.get(rule.choice, found)


def check(part, expected, rule):
    """Compare a part with {user: (events, places that may be the target, or are with successive targets)}."""
    each = rule.choice == "successive"
    rows = [
        (user, chosen)
        for user, (_, places) in expected.items()
        for chosen in ([[place] for place in places] if each else [places] if places else [])
    ]
    assert part.users.tolist() == [user for user, _ in rows]
    for row, (user, places) in enumerate(rows):
        events, _ = expected[user]
        begin, end = part.offsets[row], part.offsets[row + 1]
        place = int(end - begin)
        assert place in places
        assert part.items[begin:end].tolist() == [item for item, _ in events[:place]]
        assert part.times[begin:end].tolist() == [time for _, time in events[:place]]
        assert part.targets[row] == events[place][0]


@settings(max_examples=150, deadline=None)
@given(histories, rules, st.data())
def test_hold_out(users, rule, data):
    log, users = log_of(users)
    marks = st.lists(st.booleans(), min_size=len(log.items), max_size=len(log.items))
    rows = np.array(data.draw(marks), dtype=bool)
    candidates = rows & np.array(data.draw(marks), dtype=bool)
    expected, reasons = {}, Counter(too_short=0)
    for user, events in enumerate(users):
        start = log.offsets[user]
        kept = [place for place in range(len(events)) if rows[start + place]]
        asked = [number for number, place in enumerate(kept) if candidates[start + place]]
        events = [events[place] for place in kept]
        expected[user] = (events, allowed(events, asked, rule))
        if asked and not expected[user][1]:
            first = asked[0] == 0  # the first event of a user is new, and has no history
            reasons["too_short" if first or rule.seen == "keep" else "with_seen_targets_only"] += 1
    part, found = hold_out(log, rows, candidates, rule)
    check(part, expected, rule)
    assert Counter(found) == reasons
    assert ("with_seen_targets_only" in found) == (rule.seen == "drop")


@settings(max_examples=100, deadline=None)
@given(histories, rules, st.integers(1, 30), st.sampled_from([0.1, 0.4]), st.booleans())
def test_temporal(users, rule, moment, share, in_time):
    log, users = log_of(users)
    try:
        parts = temporal(
            log,
            test_fraction=0.3,
            test_from=moment,
            validation_users=share,
            validation="time" if in_time else "users",
            rule=rule,
            seed=1,
        )
    except DataError:
        return
    catalogue = set(parts.train.items.tolist())
    trains = set(parts.train.users.tolist())
    usable = [[event for event in events if event[0] in catalogue] for events in users]

    def places(events, begin, end=np.inf):
        return allowed(events, [place for place, (_, time) in enumerate(events) if begin <= time < end], rule)

    check(
        parts.test, {u: (usable[u], places(usable[u], moment) if u in trains else []) for u in range(len(users))}, rule
    )
    for user, _ in enumerate(users):
        usable[user] = [event for event in usable[user] if event[1] < moment]
    if in_time:
        start = 1 + parts.train.times.max()
        expected = {u: (usable[u], places(usable[u], start) if u in trains else []) for u in range(len(users))}
    else:
        rule = TargetRule("last", rule.seen)
        expected = {u: (usable[u], [] if u in trains else places(usable[u], -1)) for u in range(len(users))}
    check(parts.validation, expected, rule)


@settings(max_examples=100, deadline=None)
@given(histories, rules, st.integers(1, 4))
def test_leave_one_out(users, rule, holdout):
    log, users = log_of(users)
    enough = {user for user, events in enumerate(users) if len(events) > 2 * holdout}

    def places(user, begin, end):
        length = len(users[user])
        return allowed(users[user], range(length - begin, length - end), rule) if user in enough else []

    everyone = range(len(users))
    test = {user: (users[user], places(user, holdout, 0)) for user in everyone}
    validation = {user: (users[user], places(user, 2 * holdout, holdout)) for user in everyone}
    if not all(any(chosen for _, chosen in part.values()) for part in (test, validation)):
        with pytest.raises(DataError):
            leave_one_out(log, holdout=holdout, rule=rule)
        return
    parts = leave_one_out(log, holdout=holdout, rule=rule)
    check(parts.test, test, rule)
    check(parts.validation, validation, rule)
    train = [events[: -2 * holdout] if user in enough else events for user, events in enumerate(users)]
    assert parts.train.users.tolist() == [user for user in everyone if train[user]]
    assert parts.train.items.tolist() == [item for events in train for item, _ in events]


def test_random_targets_are_uniform_and_follow_the_seed():
    log, _ = log_of([[(item, item) for item in range(5)] for _ in range(4000)])
    rows = np.ones(len(log.items), dtype=bool)
    candidates = log.times > 0
    parts = [hold_out(log, rows, candidates, TargetRule("random", seed=seed))[0] for seed in (1, 1, 2)]
    assert parts[0].targets.tolist() == parts[1].targets.tolist() != parts[2].targets.tolist()
    counts = np.bincount(parts[0].targets, minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)).all()
