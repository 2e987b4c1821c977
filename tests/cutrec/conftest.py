"""Fixtures shared with the other tests of whole stages, and one small split for all tests of this folder."""

from pathlib import Path

import pytest

from rec_data.splits.split import split_log
from tests.small_log import small_log, workplace

__all__ = ["workplace"]


@pytest.fixture(scope="session")
def split_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log and the split of a small log; tests copy it before they write to it."""
    folder = tmp_path_factory.mktemp("split")
    for name in ("download", "split"):
        (folder / "data" / name).mkdir(parents=True)
    small_log().write_parquet(folder / "data/download/log.parquet")
    split_log(folder / "data/download/log.parquet", folder / "data/split")
    return folder
