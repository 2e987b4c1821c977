"""The picture of a log: bins that say what they seem to say."""

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from rec_data.describe import draw, users_a_doubling


def test_equally_many_users_of_every_length_give_a_rising_line():
    lengths = np.repeat(np.arange(1, 301), 7)
    edges, users = users_a_doubling(lengths)
    assert (np.diff(users) > 0).all()  # no saw: bins of one, two and three lengths stand side by side
    assert (users * np.diff(np.log2(edges))).sum() == pytest.approx(len(lengths))
    assert (edges[0], edges[-1]) == (0.5, 300.5)
    edges, users = users_a_doubling(np.array([1, 1, 1]))
    assert (edges.tolist(), users.tolist()) == ([0.5, 1.5], [3 / np.log2(3)])


@pytest.mark.parametrize("first", [0, 1_700_000_000])
def test_activity_shows_every_interaction(tmp_path, monkeypatch, first):
    drawn = []
    stairs = Axes.stairs
    monkeypatch.setattr(Axes, "stairs", lambda self, *a, **b: drawn.append(a) or stairs(self, *a, **b))
    times = [first + 86_400 * day for day in (*range(99), 99, 99, 99)]
    log = pl.DataFrame({"user_id": np.arange(102) % 7, "item_id": np.arange(102) % 11, "timestamp": times})
    log.write_parquet(tmp_path / "log.parquet")
    draw(log_path := tmp_path / "log.parquet", tmp_path / "describe.png", title=log_path.name)
    _, (height, edges) = drawn
    assert (height.sum(), height[-1], len(edges)) == (102, 4, 81)
