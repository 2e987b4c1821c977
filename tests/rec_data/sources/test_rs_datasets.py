"""Sets read by rs_datasets: from a mirror that stays as it is, and from a cache that a failed download leaves alone."""

import urllib.error
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from rec_data.config import Download
from rec_data.errors import DataError
from rec_data.sources import rs_datasets
from rec_data.sources.fetch import fetch_log, fingerprint

CLICKS = (
    "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n2,2014-04-07T13:56:37.614Z,9,7\n"
)
YOOCHOOSE = {
    "yoochoose-clicks.dat": CLICKS,
    "yoochoose-buys.dat": "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n",
    "yoochoose-test.dat": "5,2014-04-07T17:13:46.713Z,214530776,0\n",
}
NETFLIX = {
    "movies.csv": "1\t2003\tDinosaur Planet\n2\t2004\tIsle of Man\n",
    "test.csv": "1,1046323,2005-12-19\n2,1080030,2005-12-23\n",
    "train.csv": "1,1488844,3,2005-09-06\n2,822109,5,2005-05-13\n",
}
LOGS = {
    "yoochoose": [(1, 214536502, 1396867869277), (1, 214536500, 1396868049868), (2, 9, 1396878997614)],
    "netflix": [(1488844, 1, 1125964800, 3.0), (822109, 2, 1115942400, 5.0)],
}

installed = pytest.mark.skipif(find_spec("rs_datasets") is None, reason="rs_datasets needs Python 3.11")


def write(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def mirror(tmp_path):
    """A mirror with both sets, in the formats that rs_datasets' downloads leave."""
    write(tmp_path / "mirror" / "yoochoose", YOOCHOOSE)
    write(tmp_path / "mirror" / "netflix" / "clean", NETFLIX)
    return tmp_path / "mirror"


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


def test_without_rs_datasets_the_message_names_its_extra(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(rs_datasets, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed; allowed: .* \(uv pip install 'rec-data\[rs-datasets\]'\)"):
        fetch("netflix", tmp_path, mirror=mirror)


@installed
@pytest.mark.parametrize("name", LOGS)
def test_all_columns_from_a_mirror_that_stays_as_it_is(mirror, tmp_path, name):
    before = contents(mirror)
    assert fetch(name, tmp_path, mirror=mirror) == LOGS[name]
    assert contents(mirror) == before


@installed
@pytest.mark.parametrize(
    ("name", "lost", "wanted"),
    [
        ("netflix", "netflix/clean/train.csv", "netflix/clean/train.parquet or netflix/clean/train.csv"),
        ("yoochoose", "yoochoose/yoochoose-buys.dat", "yoochoose/yoochoose-buys.dat"),
    ],
)
def test_mirror_that_lacks_the_file(mirror, tmp_path, name, lost, wanted):
    (mirror / lost).unlink()
    before = contents(mirror)
    for ask in (
        lambda: fetch(name, tmp_path, mirror=mirror),
        lambda: fingerprint(name, root=tmp_path, settings=settings_of(mirror)),
    ):
        with pytest.raises(DataError, match=f"holds no file {wanted}, which dataset '{name}' is read from"):
            ask()
    assert contents(mirror) == before


def test_fingerprint_knows_the_files_of_a_mirror(mirror, tmp_path):
    first = fingerprint("yoochoose", root=tmp_path, settings=settings_of(mirror))
    assert fingerprint("yoochoose", root=tmp_path, settings=settings_of(mirror)) == first
    (mirror / "yoochoose" / "yoochoose-clicks.dat").write_text(CLICKS[:-20])
    assert fingerprint("yoochoose", root=tmp_path, settings=settings_of(mirror)) != first
    with pytest.raises(DataError, match="is not a folder"):
        fingerprint("yoochoose", root=tmp_path, settings=settings_of(mirror / "none"))


@installed
def test_download_into_the_cache(cache, tmp_path, monkeypatch):
    from rs_datasets import yoochoose

    asked = []

    def bring(url, archive):
        asked.append(url)
        write(Path(archive).with_suffix(""), YOOCHOOSE)

    monkeypatch.setattr(yoochoose, "download_dataset", bring)
    cache.mkdir(parents=True)
    for _ in range(2):
        assert fetch("yoochoose", tmp_path) == LOGS["yoochoose"]
    assert len(asked) == 1
    assert contents(cache) == {*(f"yoochoose/{name}" for name in YOOCHOOSE)}


@installed
def test_failed_download_leaves_what_is_there(cache, tmp_path, monkeypatch):
    from rs_datasets import yoochoose

    def refuse(url, archive):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(yoochoose, "download_dataset", refuse)
    write(cache / "yoochoose", {"yoochoose-clicks.dat": CLICKS})
    with pytest.raises(DataError, match=r"'yoochoose': rs_datasets cannot load it: .*no network.*download\.mirror"):
        fetch("yoochoose", tmp_path)
    assert contents(cache) == {"yoochoose/yoochoose-clicks.dat"}
