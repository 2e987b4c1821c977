"""The protocols on tables small enough to split by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.splits.sorted_log import SortedLog
from tests.rec_data.splits.whole import leave_one_out, temporal


def log_of(histories):
    """A sorted log from {user: [(item, time), ...]}."""
    offsets = np.cumsum([0, *(len(histories.get(user, [])) for user in range(max(histories) + 1))])
    events = [event for history in histories.values() for event in history]
    items = np.array([item for item, _ in events], dtype=np.int32)
    times = np.array([time for _, time in events], dtype=np.int64)
    return SortedLog(offsets, items, times, num_items=int(items.max()) + 1)


def as_dict(part):
    """{user: (items, target)} of a part."""
    rows = np.split(part.items, part.offsets[1:-1])
    targets = part.targets.tolist() if part.targets is not None else [None] * len(rows)
    return {u: (row.tolist(), t) for u, row, t in zip(part.users.tolist(), rows, targets, strict=True)}


# Twenty interactions, so index int(20 * 0.7) = 14 of the sorted times is the boundary: time 7.
BY_HAND = {
    0: [(0, 1), (1, 2), (2, 3), (0, 7), (3, 9)],  # repeats item 0 in the future; item 3 is cold
    1: [(1, 1), (0, 2), (2, 6)],  # no future: trains only
    2: [(3, 7), (0, 8)],  # no past: cannot be tested
    3: [(2, 2), (1, 4), (1, 5), (4, 6)],  # chosen to validate; item 4 is known to nobody else in the past
    4: [(2, 4)],  # one event, in the past
    5: [(0, 2), (2, 3), (4, 8)],  # its only future item is not in train: no test
    6: [(1, 5), (2, 8)],
}


def test_temporal_by_hand(monkeypatch):
    monkeypatch.setattr("rec_data.splits.decide.choose_users", lambda users, share, seed: np.array([3]))
    parts = temporal(log_of(BY_HAND), test_fraction=0.3, validation_users=0.2, seed=0)
    assert parts.boundary_time == 7
    assert as_dict(parts.train) == {
        0: ([0, 1, 2], None),
        1: ([1, 0, 2], None),
        4: ([2], None),
        5: ([0, 2], None),
        6: ([1], None),
    }
    assert as_dict(parts.validation) == {3: ([2, 1], 1)}
    assert as_dict(parts.test) == {0: ([0, 1, 2], 0), 6: ([1], 2)}
    assert parts.catalogue.tolist() == [True, True, True, False, False]
    assert parts.dropped == {
        "validation_users_too_short": 0,
        "test_users_too_short": 0,
        "test_users_not_in_train": 1,
        "validation_interactions_on_unknown_items": 1,
        "future_interactions_of_validation_users": 0,
        "future_interactions_on_unknown_items": 3,
    }


def test_validation_in_time_by_hand():
    """Of the fourteen times before t* = 7, that with index int(14 * 0.7) = 9 is 4."""
    parts = temporal(log_of(BY_HAND), test_fraction=0.3, validation_users=0.2, validation="time", seed=0)
    assert parts.boundary_time == 7
    assert as_dict(parts.train) == {0: ([0, 1, 2], None), 1: ([1, 0], None), 3: ([2], None), 5: ([0, 2], None)}
    assert as_dict(parts.validation) == {1: ([1, 0], 2), 3: ([2, 1], 1)}
    assert as_dict(parts.test) == {0: ([0, 1, 2], 0)}
    assert parts.catalogue.tolist() == [True, True, True, False, False]
    assert parts.dropped == {
        "validation_users_too_short": 0,
        "validation_users_not_in_train": 2,
        "test_users_too_short": 0,
        "test_users_not_in_train": 2,
        "validation_interactions_on_unknown_items": 1,
        "future_interactions_of_validation_users": 0,
        "future_interactions_on_unknown_items": 3,
    }


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({0: [(0, 1), (1, 1), (0, 9)]}, r"^split.validation time .*t_v = 1 on\) leaves no user to train on"),
        ({0: [(0, 1), (1, 1), (0, 9)], 1: [(0, 2), (0, 9)]}, "leaves no validation user"),
        (
            {0: [(0, 1), (0, 2), (0, 3)], 1: [(0, 3), (0, 9), (0, 9)]},
            "leaves no test user: those .* t\\* = 9 do not train",
        ),
    ],
)
def test_refusals_of_validation_in_time(histories, message):
    with pytest.raises(DataError, match=message):
        temporal(log_of(histories), test_fraction=0.3, validation_users=0.2, validation="time", seed=0)


def test_one_usable_event_is_not_enough_to_validate(monkeypatch):
    monkeypatch.setattr("rec_data.splits.decide.choose_users", lambda users, share, seed: np.array([1, 2]))
    log = log_of({0: [(0, 1), (1, 2), (0, 9)], 1: [(0, 1), (5, 2), (1, 9)], 2: [(1, 1), (0, 2)]})
    parts = temporal(log, test_fraction=0.2, validation_users=0.5, seed=0)
    assert as_dict(parts.validation) == {2: ([1], 0)}
    assert parts.dropped["validation_users_too_short"] == 1
    assert parts.dropped["future_interactions_of_validation_users"] == 1
    assert as_dict(parts.test) == {0: ([0, 1], 0)}


def test_temporal_as_the_paper_did(monkeypatch):
    monkeypatch.setattr("rec_data.splits.decide.choose_users", lambda users, share, seed: np.array([3, 8]))
    users = {
        **BY_HAND,
        7: [(0, 8), (3, 8), (1, 9)],  # a newcomer
        8: [(4, 3), (0, 7), (1, 8)],  # chosen to validate, without an item of train in the past
        9: [(1, 3), (2, 7)],
    }
    ours = temporal(log_of(users), test_fraction=0.37, validation_users=0.2, seed=0)
    paper = temporal(log_of(users), test_fraction=0.37, validation_users=0.2, seed=0, paper_faithful=True)
    assert ours.boundary_time == paper.boundary_time == 7
    for name in ("train", "validation"):
        assert as_dict(getattr(paper, name)) == as_dict(getattr(ours, name))
    tested = {0: ([0, 1, 2], 0), 6: ([1], 2), 9: ([1], 2)}
    assert as_dict(ours.test) == tested
    # Item 4 is known to validating users alone: it makes user 5 a test user, whose target is the last item of train.
    assert as_dict(paper.test) == tested | {5: ([0], 2)}
    assert ours.untargeted is None
    assert as_dict(paper.untargeted) == {7: ([0], None), 8: ([0], None)}
    assert paper.dropped["test_users_not_in_train"] == 3  # 2, 7 and 8
    assert paper.dropped["test_users_too_short"] == 1  # 2 has one item of train


def test_boundary_ties_all_belong_to_the_future():
    log = log_of({0: [(0, 1), (1, 5), (0, 5)], 1: [(1, 1), (0, 2), (0, 5), (1, 5)]})
    parts = temporal(log, test_fraction=0.3, validation_users=0, seed=0)
    assert parts.boundary_time == 5  # index int(7 * 0.7) = 4 of 1 1 2 5 5 5 5
    assert as_dict(parts.train) == {0: ([0], None), 1: ([1, 0], None)}
    assert as_dict(parts.test) == {0: ([0, 1], 0), 1: ([1, 0, 0], 1)}


def test_leave_one_out_by_hand():
    log = log_of({0: [(0, 1), (1, 2), (0, 3)], 1: [(1, 1), (2, 2)], 2: [(3, 5)], 3: [(0, 0), (0, 0), (1, 0), (4, 0)]})
    parts = leave_one_out(log)
    assert as_dict(parts.train) == {0: ([0], None), 1: ([1, 2], None), 2: ([3], None), 3: ([0, 0], None)}
    assert as_dict(parts.validation) == {0: ([0], 1), 3: ([0, 0], 1)}
    assert as_dict(parts.test) == {0: ([0, 1], 0), 3: ([0, 0, 1], 4)}
    assert parts.catalogue.all()
    assert parts.dropped == {"users_only_training": 2}


@pytest.mark.parametrize(
    ("histories", "share", "message"),
    [
        ({0: [(0, 3), (1, 3)], 1: [(0, 3)]}, 0.0, "no interaction lies before"),
        ({0: [(0, 1), (1, 2), (0, 3)]}, 0.5, "leaves no user to train on"),
        ({0: [(0, 1), (1, 2)], 1: [(2, 1), (0, 9)]}, 0.0, None),
        ({0: [(0, 1), (1, 2)], 1: [(2, 8), (0, 9)]}, 0.0, "leaves no test user"),
        ({0: [(0, 1), (0, 9)], 1: [(0, 1), (0, 9)]}, 0.5, "leaves no validation user"),
    ],
)
def test_refusals(histories, share, message):
    def split():
        return temporal(log_of(histories), test_fraction=0.3, validation_users=share, seed=0)

    if message is None:
        assert len(split().test.users) == 1
    else:
        with pytest.raises(DataError, match=message):
            split()


@pytest.mark.parametrize(("moment", "side"), [(0, "before it"), (1, "before it"), (10, "from it on")])
def test_a_moment_outside_the_log_is_refused(moment, side):
    message = rf"^split.test_from: found {moment} \(.*\), which leaves no interaction {side}; allowed: .* 1 .* to 9 "
    with pytest.raises(DataError, match=message):
        temporal(log_of(BY_HAND), test_fraction=0.3, test_from=moment, validation_users=0.2, seed=0)


def test_too_many_validation_users_are_blamed():
    log = log_of({user: [(user % 3, 1), (0, 2), (1, 9)] for user in range(6)})
    with pytest.raises(DataError, match=r"^split.validation_users 0.999 .*allowed: a smaller share"):
        temporal(log, test_fraction=0.3, validation_users=0.999, seed=0)
    alone = log_of({0: [(0, 1), (1, 2), (0, 9)], 1: [(0, 1), (1, 2), (0, 9)], 2: [(0, 1), (1, 3)], 3: [(0, 2), (1, 4)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rec_data.splits.decide.choose_users", lambda users, share, seed: np.array([0, 1]))
        with pytest.raises(
            DataError, match=r"^split.validation_users 0.5 leaves no test user: those with interactions after"
        ):
            temporal(alone, test_fraction=0.2, validation_users=0.5, seed=0)


def test_a_tiny_test_fraction_is_the_last_moment():
    parts = temporal(log_of(BY_HAND), test_fraction=1e-17, validation_users=0, seed=0)
    assert parts.boundary_time == 9


def test_no_advice_that_later_stages_refuse():
    log = log_of({0: [(0, 1), (0, 9)], 1: [(0, 1), (0, 9)]})
    with pytest.raises(DataError, match=r"allowed: a smaller share$"):
        temporal(log, test_fraction=0.3, validation_users=0.5, seed=0)


@st.composite
def sorted_logs(draw):
    histories = {}
    for user in range(draw(st.integers(2, 8))):
        events = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), min_size=1, max_size=12))
        histories[user] = sorted(events, key=lambda event: event[1])
    return log_of(histories)


@settings(max_examples=200, deadline=None)
@given(sorted_logs(), st.sampled_from([0.1, 0.25, 0.5]), st.sampled_from([0, 0.2]), st.integers(0, 3))
def test_temporal_never_leaks(log, fraction, share, seed):
    before = log.offsets.copy(), log.items.copy(), log.times.copy()
    try:
        parts = temporal(log, test_fraction=fraction, validation_users=share, seed=seed)
    except DataError:
        return
    for array, kept in zip((log.offsets, log.items, log.times), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    boundary = parts.boundary_time
    assert (parts.train.times < boundary).all()
    assert (parts.validation.times < boundary).all()
    assert not set(parts.train.users) & set(parts.validation.users)
    assert set(parts.test.users) <= set(parts.train.users)
    trained = set(parts.train.items.tolist())
    assert trained == set(np.flatnonzero(parts.catalogue).tolist())
    for part in (parts.validation, parts.test):
        assert set(part.items.tolist()) | set(part.targets.tolist()) <= trained
        assert (part.lengths >= 1).all()
        assert (np.diff(part.users) > 0).all()
    for user, (history, target) in as_dict(
        parts.test
    ).items():  # the target is the user's last usable event, in the future
        rows = range(log.offsets[user], log.offsets[user + 1])
        events = [(log.items[row], log.times[row]) for row in rows if log.items[row] in trained]
        assert [item for item, _ in events] == [*history, target]
        assert events[-1][1] >= boundary
