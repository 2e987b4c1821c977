"""Facts about a log, by hand."""

import numpy as np
import polars as pl
import pytest

from rec_data import describe as module
from rec_data.describe import as_text, describe, drop_in_words, gini, main, paired_interval


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
    assert "no effect of order can be told from 300 users" in as_text(facts)


def test_what_order_does_is_said_with_its_interval():
    low, high = paired_interval(60, 20, 400)  # 40 / 402, and 1.96 * sqrt(81 - 402 * 0.0995 ** 2) / 402
    assert (low, high) == (pytest.approx(0.05671, abs=1e-5), pytest.approx(0.14229, abs=1e-5))
    assert paired_interval(1, 0, 1)[0] < 0 < paired_interval(0, 1, 1)[1]  # one user tells nothing
    facts = {"markov_drop_interval": [0.05, 0.15], "markov_users": 4000}
    assert drop_in_words(facts) == "a drop of 5.0 to 15.0 points (95 % interval, 4,000 users)"
    assert "no effect" in drop_in_words({"markov_drop_interval": [-0.01, 0.02], "markov_users": 4})


def test_top_successors_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ORDER_K", 1)
    steps = {1: [5, 6, 9], 2: [5, 6, 9], 3: [5, 7, 9], 4: [8, 5, 6], 5: [8, 5, 7]}
    rows = [(user, item, time) for user, items in steps.items() for time, item in enumerate(items)]
    # After 5 come 6, 6, 7: so 6 is foretold. Nothing was seen to follow 6 or 7 but the held out steps.
    facts = describe(write(tmp_path / "log.parquet", rows))
    assert facts["markov_hit_rate"] == pytest.approx(1 / 5)


def test_large_logs_are_sampled(tmp_path, monkeypatch):
    rows = [(user, (user + step) % 50, step) for user in range(400) for step in range(10)]
    log = write(tmp_path / "log.parquet", rows)
    monkeypatch.setattr(module, "ORDER_ROWS", 1000)
    assert 50 < describe(log)["markov_users"] < 150


def test_command(tmp_path, capsys):
    write(tmp_path / "mine.parquet", [(user, item, item) for user in range(5) for item in range(4)])
    assert main([str(tmp_path / "mine.parquet"), "--out", str(tmp_path / "pictures")]) == 0
    assert "interactions     20" in capsys.readouterr().out
    assert (tmp_path / "pictures" / "describe.png").read_bytes()[:4] == b"\x89PNG"
    assert main([str(tmp_path / "mine.parquet"), "--user", "visitor"]) == 1
    assert "has no column 'visitor'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named_first(tmp_path, capsys):
    write(tmp_path / "mine.parquet", [(user, item, item) for user in range(5) for item in range(4)])
    (tmp_path / "file").touch()
    (tmp_path / "pictures" / "describe.png").mkdir(parents=True)
    for out in ("file", "file/inside"):
        assert main([str(tmp_path / "mine.parquet"), "--out", str(tmp_path / out)]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"error: {tmp_path / out} cannot be written: ")
    assert main([str(tmp_path / "mine.parquet"), "--out", str(tmp_path / "pictures")]) == 1
    assert "describe.png cannot be written: Is a directory" in capsys.readouterr().err
