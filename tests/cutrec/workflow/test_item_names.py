"""The table of titles is hashed and checked before a run, and read after it."""

from pathlib import Path

import pytest

from cutrec.config_point import Config, Report
from cutrec.workflow.item_names import identify, item_titles
from rec_data.errors import DataError


def test_a_changed_table_is_noticed_and_a_wrong_one_refused_before_anything_is_trained(tmp_path: Path):
    assert identify(Config(), root=tmp_path) == {}
    assert item_titles(Config(), [1], root=tmp_path) is None
    config = Config(report=Report(item_names="items.csv"))
    (tmp_path / "items.csv").write_text("item_id,title\n1,cup\n")
    first = identify(config, root=tmp_path)
    assert list(first) == ["items.csv"]
    titles = item_titles(config, [1, 2], root=tmp_path)
    assert titles is not None
    assert (titles.by_id, titles.missing) == ({"1": "cup"}, 1)
    (tmp_path / "items.csv").write_text("item_id,title\n1,mug\n")
    assert identify(config, root=tmp_path) != first
    (tmp_path / "items.csv").write_text("item_id,name\n1,mug\n")
    with pytest.raises(DataError, match=r"report\.item_names 'items\.csv' has no column 'title'"):
        identify(config, root=tmp_path)
