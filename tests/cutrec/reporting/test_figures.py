"""The pictures of the report."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from cutrec.reporting import figures


def test_segments_without_an_interval_have_no_whisker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Axes] = []
    monkeypatch.setattr(figures, "_save", lambda axes, path: drawn.append(axes))
    small = {"by": "history", "metric": "ndcg", "segment": "1-2", "value": "0.5", "low": "", "high": ""}
    large = small | {"segment": "3-9", "low": "0.25", "high": "1.0"}
    rows = [row | {"ranking": ranking} for ranking in figures.RANKINGS for row in (small, large)]

    figures.draw_segments(rows, tmp_path)

    segments = [segment for lines in drawn[0].collections for segment in lines.get_segments()]
    assert [segment[:, 1].tolist() for segment in segments if segment.size] == [[0.25, 1.0]] * len(figures.RANKINGS)
