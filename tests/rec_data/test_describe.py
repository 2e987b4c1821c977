"""Facts about a log, by hand."""

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from rec_data import order_test
from rec_data.describe import as_text, describe, drop_in_words, gini, users_per_doubling
from rec_data.order_test import paired_interval


def test_gini():
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


def write(path, rows):
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def test_by_hand(tmp_path):
    rows = [
        ("a", 1, 700_000_000),
        ("a", 2, 700_086_400),
        ("a", 1, 700_172_800),
        ("b", 2, 700_000_000),
        ("b", 3, 700_000_001),
    ]
    facts = describe(write(tmp_path / "log.parquet", rows))
    assert (facts["users"], facts["items"], facts["interactions"]) == (2, 3, 5)
    assert facts["density"] == pytest.approx(4 / 6)  # ("a", 1) comes twice
    assert facts["length_mean"] == 2.5
    assert facts["length_quantiles"]["0.5"] == 2.5
    assert facts["repeat_share"] == pytest.approx(1 / 5)
    assert facts["items_below_5"] == 3
    assert (facts["clock"], facts["first"], facts["days"]) == (True, "1992-03-07T20:26:40+00:00", 2)
    assert facts["markov_users"] == 1
    text = as_text(facts)
    assert "2 days" in text
    assert "20.0% of the interactions" in text


def test_one_early_time_does_not_stop_the_clock(tmp_path):
    rows = [("a", 1, 100_000_000), ("a", 2, 700_000_000), ("b", 1, 700_086_400)]
    assert describe(write(tmp_path / "log.parquet", rows))["clock"]
    rows = [("a", 1, 1), ("a", 2, 2), ("b", 1, 700_086_400)]
    assert not describe(write(tmp_path / "log.parquet", rows))["clock"]


def test_order_is_found_and_lost_by_shuffling(tmp_path):
    rng = np.random.default_rng(0)
    ring = [
        (user, (start + step) % 200, step) for user, start in enumerate(rng.integers(0, 200, 300)) for step in range(12)
    ]
    facts = describe(write(tmp_path / "ring.parquet", ring))
    assert facts["markov_hit_rate"] == 1.0
    assert facts["markov_hit_rate_shuffled"] < 0.8
    assert not facts["clock"]
    noise = [(user, int(item), step) for user in range(300) for step, item in enumerate(rng.integers(0, 200, 12))]
    facts = describe(write(tmp_path / "noise.parquet", noise))
    assert facts["markov_hit_rate"] == pytest.approx(facts["markov_hit_rate_shuffled"], abs=0.08)
    low, high = facts["markov_drop_interval"]
    assert low < 0 < high
    assert "no effect of order can be shown with 300 users" in as_text(facts)


def test_ties_are_no_order(tmp_path):
    """Baskets whose rows are sorted by item, each user with two days: a successor is only known within a basket."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(300):
        for day in (1, 2):
            start = int(rng.integers(0, 190))
            rows += [(user, start + place, 20_000 * 86_400 + day * 86_400) for place in range(6)]
    log = write(tmp_path / "baskets.parquet", rows)
    facts = describe(log)
    assert (facts["tied_share"], facts["duplicate_share"], facts["dates_only"]) == (1.0, 0.0, True)
    assert facts["markov_users"] == 0
    text = as_text(facts)
    assert "order            not tested: no user has three items of which the last has a later time" in text
    assert "100.0% of the interactions share user and time with one on another item" in text
    assert "(1 days, dates without a time of day)" in text
    facts = describe(log, tie_seed=None)  # the user knows that the rows are in order
    assert facts["markov_hit_rate"] > 0.9
    assert "on another item; their order is that of the rows" in as_text(facts)
    one_later = [*rows, *((user, int(rng.integers(0, 190)), 20_003 * 86_400) for user in range(300))]
    facts = describe(write(tmp_path / "log.parquet", one_later))
    assert facts["markov_users"] == 300
    assert facts["markov_drop_interval"][0] <= 0


def test_duplicates_are_counted(tmp_path):
    rows = [(user, item, 1_700_000_000 + item) for user in range(3) for item in range(4)] * 2
    facts = describe(write(tmp_path / "log.parquet", rows))
    assert (facts["duplicate_share"], facts["copies_of_every_row"], facts["tied_share"]) == (0.5, 2, 0.0)
    assert (
        "50.0% of the interactions repeat user, item and time of another; every row occurs at least 2 times"
        in as_text(facts)
    )


def test_what_order_does_is_said_with_its_interval():
    low, high = paired_interval(60, 20, 400)  # 40 / 402, and 1.96 * sqrt(81 - 402 * 0.0995 ** 2) / 402
    assert (low, high) == (pytest.approx(0.05671, abs=1e-5), pytest.approx(0.14229, abs=1e-5))
    assert paired_interval(1, 0, 1)[0] < 0 < paired_interval(0, 1, 1)[1]  # one user tells nothing
    facts = {"markov_drop_interval": [0.05, 0.15], "markov_users": 4000}
    assert drop_in_words(facts) == "a drop of 5.0 to 15.0 points (95 % interval, 4,000 users)"
    assert "no effect" in drop_in_words({"markov_drop_interval": [-0.01, 0.02], "markov_users": 4})


def test_top_successors_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(order_test, "TOP", 1)
    steps = {1: [5, 6, 9], 2: [5, 6, 9], 3: [5, 7, 9], 4: [8, 5, 6], 5: [8, 5, 7]}
    rows = [(user, item, time) for user, items in steps.items() for time, item in enumerate(items)]
    # After 5 come 6, 6, 7: so 6 is predicted. Nothing was seen to follow 6 or 7 but the held out steps.
    facts = describe(write(tmp_path / "log.parquet", rows))
    assert facts["markov_hit_rate"] == pytest.approx(1 / 5)


def test_large_logs_are_sampled(tmp_path, monkeypatch):
    rows = [(user, (user + step) % 50, step) for user in range(400) for step in range(10)]
    log = write(tmp_path / "log.parquet", rows)
    monkeypatch.setattr(order_test, "SAMPLE_ROWS", 1000)
    assert 50 < describe(log)["markov_users"] < 150


def test_equally_many_users_of_every_length_give_a_rising_line():
    lengths = np.repeat(np.arange(1, 301), 7)
    edges, users = users_per_doubling(lengths)
    assert (np.diff(users) > 0).all()  # no saw: bins of one, two and three lengths stand side by side
    assert (users * np.diff(np.log2(edges))).sum() == pytest.approx(len(lengths))
    assert (edges[0], edges[-1]) == (0.5, 300.5)
    edges, users = users_per_doubling(np.array([1, 1, 1]))
    assert (edges.tolist(), users.tolist()) == ([0.5, 1.5], [3 / np.log2(3)])


@pytest.mark.parametrize("first", [0, 1_700_000_000])
def test_activity_shows_every_interaction(tmp_path, monkeypatch, first):
    drawn = []
    stairs = Axes.stairs
    monkeypatch.setattr(Axes, "stairs", lambda self, *a, **b: drawn.append(a) or stairs(self, *a, **b))
    times = [first + 86_400 * day for day in (*range(99), 99, 99, 99)]
    log = pl.DataFrame({"user_id": np.arange(102) % 7, "item_id": np.arange(102) % 11, "timestamp": times})
    log.write_parquet(tmp_path / "log.parquet")
    describe(tmp_path / "log.parquet", picture=tmp_path / "describe.png", title="log")
    _, (height, edges) = drawn
    assert (height.sum(), height[-1], len(edges)) == (102, 4, 81)
