"""Sets read by rs_datasets: from a mirror that stays as it is, and from a cache that a failed download leaves alone."""

import sys
import urllib.error
from pathlib import Path

import polars as pl
import pytest

from rec_data.config import Download
from rec_data.errors import DataError
from rec_data.sources.fetch import fetch_log, fingerprint
from rec_data.sources.registry import SOURCES, RsDataset

GAMES = "0439381673,A21ROB,2.0,1449619200\n0700026657,A3G8U1,5.0,1449561600\n"
BEAUTY = "0439381673,A21ROB,3.0,1449619200\n"

before_312 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="rs_datasets needs Python 3.11")


@pytest.fixture
def mirror(tmp_path):
    """A mirror with one Amazon category."""
    folder = tmp_path / "mirror"
    (folder / "amazon").mkdir(parents=True)
    (folder / "amazon" / "games.csv").write_text(GAMES)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("REC_DATA_CACHE", str(folder))
    return folder / "rs_datasets"


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def settings_of(mirror):
    return Download(mirror=None if mirror is None else str(mirror))


def fetch(name, tmp_path, mirror=None):
    out = tmp_path / "log.parquet"
    before = {path.name for path in tmp_path.iterdir()} | {"log.parquet"}
    fetch_log(name, out, root=tmp_path, settings=settings_of(mirror))
    assert {path.name for path in tmp_path.iterdir()} == before
    return pl.read_parquet(out).rows()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="rs_datasets is used here")
def test_python_that_rs_datasets_does_not_know(mirror, tmp_path):
    with pytest.raises(DataError, match=r"needs Python 3\.11"):
        fetch("amazon_games", tmp_path, mirror=mirror)


@before_312
def test_amazon(mirror, tmp_path):
    rows = fetch("amazon_games", tmp_path, mirror=mirror)
    assert [row[2:] for row in rows] == [(1449619200, 2.0), (1449561600, 5.0)]
    (mirror / "amazon" / "musical instruments.csv").write_text(BEAUTY)
    assert [row[2:] for row in fetch("amazon_musical_instruments", tmp_path, mirror=mirror)] == [(1449619200, 3.0)]


@before_312
def test_netflix_leaves_its_mirror_as_it_is(tmp_path):
    folder = tmp_path / "mirror" / "netflix" / "clean"
    folder.mkdir(parents=True)
    (folder / "movies.csv").write_text("1\t2003\tDinosaur Planet\n2\t2004\tIsle of Man\n")
    (folder / "test.csv").write_text("1,1046323,2005-12-19\n2,1080030,2005-12-23\n")
    (folder / "train.csv").write_text("1,1488844,3,2005-09-06\n2,822109,5,2005-05-13\n")
    rows = fetch("netflix", tmp_path, mirror=tmp_path / "mirror")
    assert [(row[0], row[1], row[3]) for row in rows] == [(1488844, 1, 3.0), (822109, 2, 5.0)]
    assert contents(folder) == {"movies.csv", "test.csv", "train.csv"}


@before_312
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("amazon_beauty", "amazon/beauty.csv"),
        ("netflix", "netflix/clean/train.parquet or netflix/clean/train.csv"),
        ("yoochoose", "yoochoose/yoochoose-buys.dat"),
    ],
)
def test_mirror_that_lacks_the_file(mirror, tmp_path, name, wanted):
    (mirror / "yoochoose").mkdir()
    (mirror / "yoochoose" / "yoochoose-clicks.dat").write_text("1,2014-04-07T10:51:09.277Z,214536502,0\n")
    (mirror / "netflix").mkdir()
    before = contents(mirror)
    for ask in (
        lambda: fetch(name, tmp_path, mirror=mirror),
        lambda: fingerprint(name, root=tmp_path, settings=settings_of(mirror)),
    ):
        with pytest.raises(DataError, match=f"holds no file {wanted}, which dataset '{name}' is read from"):
            ask()
    assert contents(mirror) == before


def test_fingerprint_knows_the_files_of_a_mirror(mirror, tmp_path):
    first = fingerprint("amazon_games", root=tmp_path, settings=settings_of(mirror))
    assert fingerprint("amazon_games", root=tmp_path, settings=settings_of(mirror)) == first
    (mirror / "amazon" / "games.csv").write_text(BEAUTY)
    assert fingerprint("amazon_games", root=tmp_path, settings=settings_of(mirror)) != first
    with pytest.raises(DataError, match="is not a folder"):
        fingerprint("amazon_games", root=tmp_path, settings=settings_of(mirror / "none"))


@before_312
def test_download_into_the_cache(cache, tmp_path, monkeypatch):
    from rs_datasets import amazon

    asked = []

    def bring(url, path):
        asked.append(url)
        Path(path).write_text(BEAUTY)

    monkeypatch.setattr(amazon, "download_url", bring)
    cache.mkdir(parents=True)
    for _ in range(2):
        assert [row[2:] for row in fetch("amazon_beauty", tmp_path)] == [(1449619200, 3.0)]
    assert len(asked) == 1
    assert contents(cache) == {"amazon/beauty.csv", "amazon.lock"}


@before_312
def test_failed_download_leaves_the_other_sets(cache, tmp_path, monkeypatch):
    from rs_datasets import amazon

    def refuse(url, path):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(amazon, "download_url", refuse)
    (cache / "amazon").mkdir(parents=True)
    (cache / "amazon" / "games.csv").write_text(GAMES)
    with pytest.raises(DataError, match=r"'amazon_beauty': rs_datasets cannot load it: .*no network"):
        fetch("amazon_beauty", tmp_path)
    assert contents(cache) == {"amazon/games.csv", "amazon.lock"}


def test_every_amazon_category_has_a_name():
    if sys.version_info >= (3, 12):
        assert "amazon_musical_instruments" in SOURCES
        return
    from rs_datasets.amazon import categories

    found = {source.category for source in SOURCES.values() if isinstance(source, RsDataset) and source.category}
    assert found == set(categories)
    assert all(" " not in name for name in SOURCES)
