"""The published data sets from small files in their real raw formats."""

import dataclasses
import datetime as dt
import gzip
import hashlib
import json
import zipfile
from importlib.util import find_spec

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec_data.config import Download
from rec_data.errors import DataError
from rec_data.raw import formats
from rec_data.raw.formats import READERS
from rec_data.sources import published
from rec_data.sources.fetch import fetch_log, fingerprint
from rec_data.sources.published import FETCHERS
from rec_data.sources.registry import SOURCES, Published

RATINGS = "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,3.0,1112484676\n2,2,4.0,974820598\n"
MODERN = {
    "ratings.csv": RATINGS,
    "movies.csv": 'movieId,title,genres\n2,"Jumanji, the (1995)",Adventure|Children\n29,City (1995),Drama\n',
    "tags.csv": "userId,movieId,tag,timestamp\n1,2,board game,1139045764\n",
    "links.csv": "movieId,imdbId,tmdbId\n2,0113497,8844\n29,0112682,902\n",
}
ML_1M = {
    "ratings.dat": "1::2::5::978300760\n1::29::3::978302109\n2::2::3::978301968\n",
    "movies.dat": "2::Jumanji (1995)::Adventure\n29::Cit\u00e9 (1995)::Drama\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}
ML_10M = {
    "ratings.dat": "1::2::5::978300760\n1::29::3.5::978302109\n2::2::3::978301968\n",
    "movies.dat": "2::Jumanji (1995)::Adventure\n29::City (1995)::Drama\n",
    "tags.dat": "1::2::board game::1139045764\n",
}
ML_100K = {
    "u.data": "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n",
    "u.user": "196|49|M|writer|55105\n186|39|F|executive|00000\n22|25|M|writer|40206\n",
    "u.item": "".join(
        f"{item}|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya|" + "|".join(["0"] * 19) + "\n"
        for item in (242, 302, 377)
    ),
}
EVENTS = "".join(
    f'{event}\t{row}\t{when}\t{{"playtime":-1}}\t{linked}\n'
    for row, (event, when, linked) in enumerate(
        [
            ("event.play", 1390231051, '{"subjects":[{"type":"user","id":7}],"objects":[{"type":"track","id":44}]}'),
            ("event.love", 1390231052, '{"subjects":[{"type":"user","id":8}],"objects":[{"type":"track","id":45}]}'),
            (
                "event.play",
                1390231050,
                '{"subjects":[{"type": "user", "id": 7}], "objects":[{"type":"track","id":46}]}',
            ),
        ]
    )
)
CHECKINS = (
    "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n"
    "0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315\n"
)
GAMES = "0439381673,A21ROB,2.0,1449619200\n0700026657,A3G8U1,5.0,1449561600\n"
REVIEWS = "user_id,parent_asin,rating,timestamp\nAGKH,B07PNNCSP9,5.0,1614052372123\nAGKH,B08TWDN8WL,3.0,1588687728923\n"


def zipped(path, top, members, *, litter=False):
    with zipfile.ZipFile(path, "w") as archive:
        if litter:
            archive.writestr("__MACOSX/._" + top, "")
        archive.writestr(f"{top}/", "")
        for name, text in members.items():
            archive.writestr(f"{top}/{name}", text.encode("latin-1"))


def fetch(name, mirror, **settings):
    out = mirror.parent / "log.parquet"
    summary = fetch_log(name, out, root=mirror.parent, settings=Download(mirror=str(mirror), **settings))
    assert {path.name for path in mirror.parent.iterdir()} == {"log.parquet", mirror.name}
    return pl.read_parquet(out).rows(), summary


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty mirror, and no pinned checksums: the files here are not the real ones."""
    for name, source in SOURCES.items():
        if isinstance(source, Published):
            raws = tuple(dataclasses.replace(raw, checksum=None) for raw in source.raws)
            monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, raws=raws))
    folder = tmp_path / "mirror"
    folder.mkdir()
    return folder


MOVIELENS = {
    "movielens_20m": ("ml-20m", MODERN, [(1, 2, 1112486027, 3.5), (2, 2, 974820598, 4.0)]),
    "ml_latest_small": (
        "ml-latest-small",
        MODERN,
        [(1, 2, 1112486027, 3.5), (1, 29, 1112484676, 3.0), (2, 2, 974820598, 4.0)],
    ),
    "ml_1m": ("ml-1m", ML_1M, [(1, 2, 978300760, 5.0), (1, 29, 978302109, 3.0), (2, 2, 978301968, 3.0)]),
    "ml_10m": ("ml-10M100K", ML_10M, [(1, 2, 978300760, 5.0), (1, 29, 978302109, 3.5), (2, 2, 978301968, 3.0)]),
    "ml_100k": (
        "ml-100k",
        ML_100K,
        [(196, 242, 881250949, 3.0), (186, 302, 891717742, 3.0), (22, 377, 878887116, 1.0)],
    ),
}


@pytest.mark.parametrize("name", MOVIELENS)
@pytest.mark.parametrize("with_rs_datasets", [find_spec("rs_datasets") is not None, False])
def test_movielens(mirror, monkeypatch, name, with_rs_datasets):
    if not with_rs_datasets:
        monkeypatch.setattr(formats, "find_spec", lambda name: None)
    top, members, expected = MOVIELENS[name]
    zipped(mirror / SOURCES[name].raws[0].file, top, members)
    assert fetch(name, mirror)[0] == expected


@pytest.mark.parametrize("name", MOVIELENS)
def test_movielens_as_its_archive_unpacks(mirror, name):
    top, members, expected = MOVIELENS[name]
    (mirror / top).mkdir()
    for file, text in members.items():
        (mirror / top / file).write_text(text, encoding="latin-1")
    assert fetch(name, mirror)[0] == expected
    assert fingerprint(name, root=mirror, settings=Download(mirror=str(mirror)))["file"].startswith(f"{top}/")


@pytest.mark.parametrize(
    ("name", "ratings"), [("ml_20m", "ratings.csv"), ("ml_1m", "ratings.dat"), ("ml_100k", "u.data")]
)
def test_movielens_without_ratings(mirror, name, ratings):
    file = SOURCES[name].raws[0].file
    top = file.removesuffix(".zip")
    zipped(mirror / file, top, {"movies.csv": MODERN["movies.csv"]})
    with pytest.raises(DataError, match=f"{file} holds no {top}/{ratings}, the ratings of this release$"):
        fetch(name, mirror)


@pytest.mark.parametrize(("name", "members"), [("movielens_20m", MODERN), ("ml_1m", ML_1M), ("ml_100k", ML_100K)])
def test_movielens_with_nothing_but_ratings(mirror, name, members):
    ratings = next(iter(members))
    top, _, expected = MOVIELENS[name]
    zipped(mirror / SOURCES[name].raws[0].file, top, {ratings: members[ratings]}, litter=True)
    assert fetch(name, mirror)[0] == expected


@pytest.mark.skipif(find_spec("rs_datasets") is None, reason="rs_datasets needs Python 3.11")
def test_movielens_that_rs_datasets_cannot_read(mirror):
    zipped(mirror / "ml-20m.zip", "ml-20m", {**MODERN, "movies.csv": "movieId\n1\n"})
    with pytest.raises(DataError, match=r"ml-20m\.zip: rs_datasets cannot read it") as caught:
        fetch("movielens_20m", mirror)
    assert "raw-" not in str(caught.value)


@pytest.mark.parametrize("file", ["Beauty_and_Personal_Care.csv.gz", "Beauty_and_Personal_Care.csv"])
def test_beauty(mirror, file):
    (mirror / file).write_bytes(gzip.compress(REVIEWS.encode()) if file.endswith(".gz") else REVIEWS.encode())
    rows, summary = fetch("beauty", mirror)
    assert rows == [("AGKH", "B07PNNCSP9", 1614052372123, 5.0)]
    assert summary["timestamp_unit"] == "ms"
    assert (summary["rows_read"], summary["rows"]) == (2, 1)
    both = [("AGKH", "B07PNNCSP9", 1614052372123, 5.0), ("AGKH", "B08TWDN8WL", 1588687728923, 3.0)]
    assert fetch("beauty", mirror, min_rating=3)[0] == both


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("amazon_games", "amazon/games.csv"),
        ("amazon_games", "amazon/Video_Games.csv"),
        ("amazon_games", "Video_Games.csv"),
        ("amazon_musical_instruments", "amazon/musical instruments.csv"),
        ("amazon_fashion", "AMAZON_FASHION.csv"),
    ],
)
def test_amazon_has_the_item_first(mirror, name, file):
    (mirror / file).parent.mkdir(exist_ok=True)
    (mirror / file).write_text(GAMES)
    expected = [("A21ROB", "0439381673", 1449619200, 2.0), ("A3G8U1", "0700026657", 1449561600, 5.0)]
    assert fetch(name, mirror)[0] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A21ROB,0439381673,2.0,1449619200\n", "line 1 is A21ROB,0439381673.*the user before the item, as in .* 2014"),
        ("item,user,rating,timestamp\n" + GAMES, r"'timestamp': 1 value does not parse \(.*, line 1: 'timestamp'\)"),
        (GAMES + "0700026657,A3G8U1,5.0\n", r"'timestamp' has 1 empty value \(.*, line 3\)"),
        (GAMES + "0700026657,A3G8U1,5.0,1449561600,7\n", r"has 1 empty value \(.*, line 3\)"),
    ],
)
def test_other_files_under_the_name_of_amazons(mirror, text, message):
    (mirror / "Video_Games.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        fetch("amazon_games", mirror)


def test_every_amazon_category_has_a_name_and_a_file():
    categories = pytest.importorskip("rs_datasets.amazon").categories
    found = {name: source.raws for name, source in SOURCES.items() if name.startswith("amazon_")}
    assert found.keys() == {f"amazon_{category.replace(' ', '_')}" for category in categories}
    for category, file in categories.items():
        raws = found[f"amazon_{category.replace(' ', '_')}"]
        assert [raw.file for raw in raws] == [f"amazon/{category}.csv", f"amazon/{file}", file]
        assert raws[0].address.endswith(f"/{file}")


@pytest.mark.parametrize("folders", [("", ""), ("zvuk-dataset/", "megamarket/")])
def test_zvuk_and_megamarket(mirror, folders):
    for folder in folders:
        (mirror / folder).mkdir(exist_ok=True)
    when = [dt.datetime(2023, 1, 2, 3, 4, 5, 600_000), dt.datetime(2023, 1, 2)]
    pl.DataFrame(
        {"user_id": [1, 2], "session_id": [5, 6], "datetime": when, "track_id": [30, 20], "play_duration": [1.0, 2.0]}
    ).write_parquet(mirror / folders[0] / "zvuk-interactions.parquet")
    assert fetch("zvuk", mirror)[0] == [(1, 30, 1672628645600), (2, 20, 1672617600000)]
    pl.DataFrame(
        {"user_id": [1, 2, 3], "item_id": [3, 4, 5], "event": [2, 1, 2], "datetime": [when[1]] * 3}
    ).write_parquet(mirror / folders[1] / "megamarket.parquet")
    assert fetch("megamarket", mirror)[0] == [(1, 3, 1672617600), (3, 5, 1672617600)]


@pytest.fixture
def yambda():
    """The unified file of events, as the dataset card describes it; the others hold the rows of one event each."""
    unsigned = {"uid": pl.UInt32, "item_id": pl.UInt32, "timestamp": pl.UInt32, "is_organic": pl.UInt8}
    rows = [
        (100, 9390623, 0, 1, "listen", 100, 180),
        (100, 7, 5, 0, "listen", 49, 200),
        (100, 7, 10, 0, "like", None, None),
        (100, 7, 86400, 1, "listen", 50, 200),
        (100, 7, 86405, 1, "unlike", None, None),
        (1000000, 22, 26000000, 0, "listen", 159, 60),
    ]
    kinds = pl.Enum(["listen", "like", "dislike", "unlike", "undislike"])
    more = {"event_type": kinds, "played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}
    return pl.DataFrame(rows, schema=unsigned | more, orient="row")


@pytest.mark.parametrize("folder", ["", "yambda/"])
@pytest.mark.parametrize("unified", [False, True])
def test_yambda(mirror, yambda, folder, unified):
    path = mirror / folder / "flat/50m"
    path.mkdir(parents=True)
    if unified:
        yambda.write_parquet(path / "multi_event.parquet")
    else:
        listens = yambda.filter(pl.col("event_type") == "listen").drop("event_type")
        listens.write_parquet(path / "listens.parquet")
        likes = yambda.filter(pl.col("event_type") == "like")
        likes.select("uid", "item_id", "timestamp", "is_organic").write_parquet(path / "likes.parquet")
    rows, summary = fetch("yambda_50m", mirror)
    year_2000 = int(dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp())
    times = [year_2000 + after for after in (0, 86400, 26000000)]
    assert rows == [(100, 9390623, times[0], 100.0), (100, 7, times[1], 50.0), (1000000, 22, times[2], 159.0)]
    assert (summary["rows_read"], summary["rows"], summary["timestamp_unit"]) == (6 if unified else 4, 3, "s")
    assert len(fetch("yambda_50m", mirror, min_rating=0)[0]) == 4
    assert [row[:3] for row in fetch("yambda_50m_likes", mirror)[0]] == [(100, 7, year_2000 + 10)]
    with pytest.raises(DataError, match=r"holds no yambda/flat/5b/listens\.parquet or flat/5b/listens\.parquet or "):
        fetch("yambda_5b", mirror)
    yambda.drop("timestamp", "event_type").write_parquet(path / "listens.parquet")
    with pytest.raises(DataError, match="has no column 'timestamp'"):
        fetch("yambda_50m", mirror)


def test_yambda_is_downloaded_from_its_folder(server, tmp_path, monkeypatch, yambda):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    yambda.filter(pl.col("event_type") == "listen").drop("event_type").write_parquet(tmp_path / "listens.parquet")
    address = "/datasets/yandex/yambda/resolve/main/flat/500m/listens.parquet"
    server.files[address] = (tmp_path / "listens.parquet").read_bytes()
    raw = SOURCES["yambda_500m"].raws[0]
    assert raw.address == "https://huggingface.co" + address
    local = dataclasses.replace(raw, address=server.url + address)
    monkeypatch.setitem(SOURCES, "yambda_500m", dataclasses.replace(SOURCES["yambda_500m"], raws=(local,)))
    fetch_log("yambda_500m", tmp_path / "log.parquet", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet").height == 3
    assert (tmp_path / "cache/yambda/flat/500m/listens.parquet").exists()


THIRTY = {"user_id": [1], "item_id": [2], "timestamp": [1390231051], "playtime": [3]}
CHECKED_IN = {"userId": [1], "locationId": [2], "checkInTime": ["2010-10-19T23:55:27Z"], "relevant": [1]}


@pytest.mark.parametrize(
    ("name", "content", "files"),
    [
        ("30music", EVENTS, ["events.idomaar", "relations/events.idomaar", "ThirtyMusic/relations/events.idomaar"]),
        ("30music", EVENTS, ["events.idomaar.gz", "ThirtyMusic/relations/events.idomaar.gz"]),
        ("30music", THIRTY, ["30music.parquet", "30music/interactions.parquet"]),
        ("gowalla", CHECKINS, ["loc-gowalla_totalCheckins.txt", "Gowalla_totalCheckins.txt"]),
        ("gowalla", CHECKINS.replace("\n", "\r\n"), ["loc-gowalla_totalCheckins.txt.gz"]),
        ("gowalla", CHECKED_IN, ["gowalla.parquet", "gowalla/interactions.parquet"]),
    ],
)
def test_30music_and_gowalla_as_their_archives_unpack(mirror, name, content, files):
    expected = {
        "30music": [(7, 44, 1390231051), (7, 46, 1390231050)],
        "gowalla": [(0, 22847, 1287532527), (0, 420315, 1287440263)],
    }[name]
    for file in files:
        path = mirror / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pl.DataFrame(content).write_parquet(path)
            expected = [(1, 2, 1390231051 if name == "30music" else 1287532527)]
        else:
            path.write_bytes(gzip.compress(content.encode()) if file.endswith(".gz") else content.encode())
        assert fetch(name, mirror)[0] == expected
        path.unlink()


def test_incomplete_lines_of_gowalla_are_dropped_and_counted(mirror):
    lines = CHECKINS * 2000 + "0\t2010-10-12T19:56:49Z\t30.2\t-97.7\n0\t2010-1\n\n\n"
    (mirror / "loc-gowalla_totalCheckins.txt").write_text(lines)
    rows, summary = fetch("gowalla", mirror)
    assert rows == [(0, 22847, 1287532527), (0, 420315, 1287440263)] * 2000
    assert (summary["rows_read"], summary["rows"], summary["rows_incomplete"]) == (4002, 4000, 2)
    (mirror / "loc-gowalla_totalCheckins.txt").write_text(lines + "1\t2010-10-12T19:56:49Z\t30.2\n" * 3)
    with pytest.raises(
        DataError,
        match=r"5 lines without user, item or time \(first in .*Checkins.txt, line 4001\) among 4005; all",
    ):
        fetch("gowalla", mirror)


def test_a_file_of_an_installed_package_is_read_where_it_is(mirror, monkeypatch):
    purchases = {
        "household_id": [900, 900, 1228],
        "product_id": [1095275, 9878513, 1041453],
        "transaction_timestamp": [dt.datetime(2017, 1, 1, 11, 53, 26)] * 3,
    }
    site = mirror.parent / "site"
    (raw,) = SOURCES["completejourney"].raws
    raw = dataclasses.replace(raw, file="groceries_py/data/transactions.parquet")
    monkeypatch.setitem(SOURCES, "completejourney", Published((raw,)))
    with pytest.raises(DataError, match=r"which is not installed; .*'rec-data\[completejourney\]'\), or "):
        fetch_log("completejourney", mirror.parent / "log.parquet", root=mirror)

    (site / "groceries_py/data").mkdir(parents=True)
    (site / "groceries_py/__init__.py").touch()
    pl.DataFrame(purchases).write_parquet(site / raw.file)
    checksum = "sha256:" + hashlib.sha256((site / raw.file).read_bytes()).hexdigest()
    monkeypatch.setitem(SOURCES, "completejourney", Published((dataclasses.replace(raw, checksum=checksum),)))
    monkeypatch.syspath_prepend(str(site))
    expected = [(900, 1095275, 1483271606), (900, 9878513, 1483271606), (1228, 1041453, 1483271606)]
    fetch_log("completejourney", mirror.parent / "log.parquet", root=mirror)
    assert pl.read_parquet(mirror.parent / "log.parquet").rows() == expected
    fetch_log("completejourney", mirror.parent / "log.parquet", root=site, settings=Download(mirror="."))
    assert pl.read_parquet(mirror.parent / "log.parquet").rows() == expected
    assert fingerprint("completejourney", root=site)["checksum"] == checksum
    (site / raw.file).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"transactions\.parquet .* expected .*; install the package again"):
        fetch_log("completejourney", mirror.parent / "log.parquet", root=mirror)


def test_every_source_has_a_reader_and_a_fetcher():
    for source in SOURCES.values():
        if isinstance(source, Published):
            assert source.raws[0].fetcher in FETCHERS
            assert all(raw.reader in READERS for raw in source.raws)
            assert all(
                raw.address.startswith("https://") for raw in source.raws if raw.fetcher in ("http", "yandex_disk")
            )


def test_refusals(mirror):
    cases = {
        (
            "movielens_20m",
            mirror,
        ): "holds no ml-20m.zip or ml-20m/ratings.csv, which dataset 'movielens_20m' is read from",
        ("gowalla", mirror): "totalCheckins.txt.gz or loc-gowalla_totalCheckins.txt or Gowalla_.* or gowalla.parquet",
        ("beauty", mirror / "none"): "is not a folder",
        ("lastfm", mirror): "has no times",
        ("beuty", mirror): "did you mean 'beauty'",
    }
    for (name, folder), message in cases.items():
        with pytest.raises(DataError, match=message):
            fetch_log(name, mirror.parent / "log.parquet", root=mirror, settings=Download(mirror=str(folder)))


def test_pinned_checksum_guards_a_mirror(tmp_path):
    (tmp_path / "ml-20m.zip").write_bytes(b"not the real one")
    with pytest.raises(DataError, match=r"md5 .* expected cd245b17a1ae2cc31bb14903e1204af3.*; put the published file"):
        fetch_log("movielens_20m", tmp_path / "log.parquet", root=tmp_path, settings=Download(mirror=str(tmp_path)))


def test_checksum_beside_the_file_of_a_mirror(mirror):
    (mirror / "loc-gowalla_totalCheckins.txt").write_text(CHECKINS)
    record = mirror / "loc-gowalla_totalCheckins.txt.sha256"
    record.write_text(hashlib.sha256(CHECKINS.encode()).hexdigest() + "  loc-gowalla_totalCheckins.txt\n")
    assert len(fetch("gowalla", mirror)[0]) == 2
    record.write_text("0" * 64 + "  loc-gowalla_totalCheckins.txt\n")
    with pytest.raises(
        DataError, match=r"damaged or replaced; put .*, or correct loc-gowalla_totalCheckins\.txt\.sha256"
    ):
        fetch("gowalla", mirror)


def test_folder_in_the_place_of_the_file(mirror):
    (mirror / "gowalla.parquet").mkdir()
    with pytest.raises(DataError, match=r"gowalla\.parquet is a folder; expected the file"):
        fetch("gowalla", mirror)
    (mirror / "loc-gowalla_totalCheckins.txt").write_text(CHECKINS)
    assert len(fetch("gowalla", mirror)[0]) == 2


def test_download_into_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    raw = SOURCES["beauty"].raws[0]
    local = dataclasses.replace(raw, address=server.url + "/beauty.csv.gz")
    monkeypatch.setitem(SOURCES, "beauty", Published((local,), 3.0))
    server.files["/beauty.csv.gz"] = gzip.compress(REVIEWS.encode())
    for _ in range(2):
        fetch_log("beauty", tmp_path / "log.parquet", root=tmp_path)
    assert len(server.requests) == 1
    assert pl.read_parquet(tmp_path / "log.parquet").height == 1
    assert fingerprint("beauty", root=tmp_path)["address"] == local.address


@pytest.mark.parametrize("as_zip", [False, True])
def test_yandex_disk(server, tmp_path, monkeypatch, as_zip):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "YANDEX_DISK", server.url + "/ask?public_key=")
    frame = pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [1390231051], "playtime": [3]})
    frame.write_parquet(tmp_path / "30music.parquet")
    content = (tmp_path / "30music.parquet").read_bytes()
    if as_zip:
        members = {"thirty.parquet": content.decode("latin-1"), "._thirty.parquet": ""}
        zipped(tmp_path / "shared.zip", "shared", members, litter=True)
        content = (tmp_path / "shared.zip").read_bytes()
    key = "https%3A%2F%2Fdisk.yandex.ru%2Fd%2FXwRRFVuJG-ECng"
    server.files["/ask?public_key=" + key] = json.dumps({"href": server.url + "/there"}).encode()
    server.files["/there"] = content
    for _ in range(2):
        fetch_log("30music", tmp_path / "log.parquet", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet").rows() == [(1, 2, 1390231051)]
    assert len(server.requests) == 2


def test_yandex_disk_that_shares_something_else(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "YANDEX_DISK", server.url + "/ask?public_key=")
    key = "https%3A%2F%2Fdisk.yandex.ru%2Fd%2FXwRRFVuJG-ECng"
    server.files["/ask?public_key=" + key] = json.dumps({"href": server.url + "/there"}).encode()
    server.files["/there"] = b"<html>"
    with pytest.raises(DataError, match=r"30music\.parquet begins with b'<htm'"):
        fetch_log("30music", tmp_path / "log.parquet", root=tmp_path)
    assert not (tmp_path / "cache" / "30music.parquet.shared").exists()


def test_yandex_disk_that_shares_another_archive_after_a_wrong_one(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "YANDEX_DISK", server.url + "/ask?public_key=")
    key = "https%3A%2F%2Fdisk.yandex.ru%2Fd%2FXwRRFVuJG-ECng"
    server.files["/ask?public_key=" + key] = json.dumps({"href": server.url + "/there"}).encode()
    pl.DataFrame(THIRTY).write_parquet(tmp_path / "30music.parquet")
    for content in ("<html>", (tmp_path / "30music.parquet").read_bytes().decode("latin-1")):
        zipped(tmp_path / "shared.zip", "shared", {"interactions.parquet": content})
        server.files["/there"] = (tmp_path / "shared.zip").read_bytes()
        if content == "<html>":
            with pytest.raises(DataError, match=r"30music\.parquet begins with b'<htm'"):
                fetch_log("30music", tmp_path / "log.parquet", root=tmp_path)
    fetch_log("30music", tmp_path / "log.parquet", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet").rows() == [(1, 2, 1390231051)]


def test_yandex_disk_without_an_answer(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "YANDEX_DISK", server.url + "/ask?public_key=")
    with pytest.raises(DataError, match=r"gives no download address.*download\.mirror"):
        fetch_log("30music", tmp_path / "log.parquet", root=tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=2),
)
@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("gowalla", "loc-gowalla_totalCheckins.txt.gz", CHECKINS * 40),
        ("30music", "events.idomaar.gz", EVENTS * 20),
    ],
)
def test_damaged_archives_give_the_whole_log_or_one_line(mirror, name, file, text, cut, flips):
    content = gzip.compress(text.encode(), mtime=0)
    (mirror / file).write_bytes(content)
    whole, _ = fetch(name, mirror)
    damaged = bytearray(content if cut is None else content[: int(cut * len(content))])
    for place, mask in flips:
        if damaged:
            damaged[int(place * len(damaged))] ^= mask
    (mirror / file).write_bytes(damaged)
    message, found = "", whole
    try:
        found, _ = fetch(name, mirror)
    except DataError as error:
        message = str(error)
    assert found == whole
    assert "\n" not in message
