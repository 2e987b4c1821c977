"""Files behind an address: from a store that speaks S3, from a web server, and from the local disk."""

import gzip
import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from rec_data.config import Columns
from rec_data.errors import DataError
from rec_data.raw.history_files import write_history_log
from rec_data.sources import remote
from rec_data.sources.fetch import fetch_log, fingerprint

HEADER = "user_id,item_id,timestamp\n"
ROWS = [("ann", f"p{row}", 1_700_000_000 + row) for row in range(4)]


def parquet(rows):
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(buffer)
    return buffer.getvalue()


OBJECTS = {
    "log.parquet": parquet(ROWS),
    "parts/a=2/p.parquet": parquet(ROWS[2:]),
    "parts/a=1/p.parquet": parquet(ROWS[:2]),
    "parts/a=1/_SUCCESS": b"",
    "days/10.csv": f"{HEADER}ann,p10,10\n".encode(),
    "days/2.csv": f"{HEADER}ann,p2,2\n".encode(),
    "days/1.csv": b"",
    "my file [1] ü%20.csv.gz": gzip.compress(f"{HEADER}1,2,3\n".encode()),
    "twice.csv": b"user_id,user_id,timestamp\n1,2,3\n",
    "empty.csv": b"",
    "table.json": b"{}",
}


class Store(BaseHTTPRequestHandler):
    """The part of the S3 protocol that reading needs, for the bucket ``shop``."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        body = OBJECTS.get(key) if key else b""
        status = 403 if bucket == "private" else 404 if bucket != "shop" or body is None else 200
        self.answer(status, body or b"")

    def do_GET(self):
        asked = urlsplit(self.path)
        bucket, _, key = unquote(asked.path).lstrip("/").partition("/")
        if bucket != "shop":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif key:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.answer(206, OBJECTS[key][int(first) : int(last or len(OBJECTS[key])) + 1])
        else:
            options = {name: values[0] for name, values in parse_qs(asked.query).items()}
            self.answer(200, self.listing(options.get("prefix", ""), options.get("delimiter")))

    def listing(self, prefix, delimiter):
        found = {key: body for key, body in OBJECTS.items() if key.startswith(prefix)}
        folders = {key[: key.index("/", len(prefix)) + 1] for key in found if delimiter and "/" in key[len(prefix) :]}
        lines = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        for key, body in sorted(found.items()):
            if not any(key.startswith(folder) for folder in folders):
                size = f"<Key>{escape(key)}</Key><Size>{len(body)}</Size>"
                lines.append(f"<Contents>{size}<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>")
        count = f"<KeyCount>{len(lines)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult><Name>shop</Name>{count}{''.join(lines)}</ListBucketResult>".encode()

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def options():
    """The options of an address that lead to the store."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    yield f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1%3A{listener.server_port}"
    listener.shutdown()
    listener.server_close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def fetch(dataset, place):
    """The rows of a log, whose copies are gone afterwards."""
    fetch_log(dataset, place / "log.parquet", root=place)
    assert {path.name for path in place.iterdir()} <= {"log.parquet", "cache"}
    return pl.read_parquet(place / "log.parquet").rows()


@pytest.mark.parametrize(
    ("path", "rows", "keys"),
    [
        ("log.parquet", ROWS, ["log.parquet"]),
        ("parts/*/p.parquet", ROWS, ["parts/a=1/p.parquet", "parts/a=2/p.parquet"]),
        ("parts/a=[2]/*.parquet", ROWS[2:], ["parts/a=2/p.parquet"]),
        ("parts/a=1", ROWS[:2], ["parts/a=1/p.parquet"]),
        ("parts/a=1/", ROWS[:2], ["parts/a=1/p.parquet"]),
        ("days", [("ann", "p2", 2), ("ann", "p10", 10)], ["days/2.csv", "days/10.csv"]),
        ("days/*.csv", [("ann", "p2", 2), ("ann", "p10", 10)], ["days/2.csv", "days/10.csv"]),
        ("my file [1] ü%20.csv.gz", [(1, 2, 3)], ["my file [1] ü%20.csv.gz"]),
    ],
)
def test_objects_of_a_bucket(options, place, path, rows, keys):
    dataset = f"s3://shop/{path}{options}"
    assert fetch(dataset, place) == rows
    found = fingerprint(dataset, root=place)
    assert not list((place / "cache").iterdir())
    assert found == {
        "kind": "file",
        "files": [
            {"path": f"s3://shop/{key}", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for key, body in ((key, OBJECTS[key]) for key in keys)
        ],
    }


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://shop/twice.csv", r"^file s3://shop/twice\.csv names column 'user_id' twice"),
        ("s3://shop/empty.csv", r"^dataset file s3://shop/empty\.csv is empty"),
        ("s3://shop/table.json", r"^dataset file s3://shop/table\.json: unknown suffix"),
        ("s3://shop/no.csv", r"^dataset 's3://shop/no\.csv': no such file"),
        ("s3://shop/no*.csv", r"^dataset 's3://shop/no\*\.csv': no file matches"),
        (
            "s3://private/log.parquet",
            r"^dataset 's3://private/log\.parquet' cannot be read; needed: .*_KEY_ID.*\?region=.*ACCESS_DENIED",
        ),
        ("s3://other/log.parquet", r"^dataset 's3://other/log\.parquet': no such file"),
        ("s3://shop/parts/", r"in sub-folders; allowed: a glob such as s3://shop/parts/\*/\*\.parquet"),
        ("s3://shop", r"is a folder with files of several formats \(.*\); .* such as s3://shop/\*\.csv"),
        ("s3://shop/**/p.parquet", r"holds '\*\*'; allowed"),
        ("s3://shop/../x.csv", r"holds '\.\.'; allowed"),
        ("s3://me:secret@shop/log.parquet", r"^dataset s3://\.\.\. holds a password; allowed: credentials"),
        ("zz://shop/log.parquet", r"'zz://shop/log\.parquet' cannot be read: .*install the extra rec-data\[remote\]"),
    ],
)
def test_refusals_name_the_address_in_one_line(options, place, address, message):
    for refuses in (fetch, lambda dataset, place: fingerprint(dataset, root=place)):
        if "twice" in address and refuses is not fetch:
            continue
        with pytest.raises(DataError, match=message) as caught:
            refuses(address + options * address.startswith("s3"), place)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert not [path for path in place.rglob("*") if path.is_file()]


def test_object_that_is_cut_off_is_refused(place, monkeypatch):
    local = fs.SubTreeFileSystem(str(place), fs.LocalFileSystem())
    (place / "shop").mkdir()
    (place / "shop" / "log.csv").write_text(HEADER + "1,2,3\n4,5,6\n")
    monkeypatch.setattr(remote, "open_system", lambda address: (local, "shop"))
    real = remote._list

    def larger(*arguments):
        return [fs.FileInfo(info.path, type=info.type, size=info.size + 1) for info in real(*arguments)]

    monkeypatch.setattr(remote, "_list", larger)
    with pytest.raises(DataError, match=r"zz://shop/log\.csv ended after 38 of 39 bytes"):
        fetch_log("zz://shop/log.csv", place / "log.parquet", root=place)
    assert {path.name for path in place.iterdir()} == {"shop"}


NAMES = st.text("ab[]*", min_size=1, max_size=2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=6), st.lists(NAMES, min_size=1, max_size=3)
)
def test_globs_match_as_those_of_local_files(tmp_path_factory, names, pattern):
    root = tmp_path_factory.mktemp("globs")
    for name in names:
        path = root.joinpath("shop", *name[:-1], f"{name[-1]}.csv")
        if all(not parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(HEADER)
    asked = f"{'/'.join(pattern)}.csv"
    if "**" in pattern:
        return
    full = root / "shop" / asked
    expected = [full] if full.exists() else sorted((root / "shop").glob(asked))
    local = fs.SubTreeFileSystem(str(root), fs.LocalFileSystem())
    try:
        found = remote._list(local, "shop", remote.Address("zz", "shop", asked, ""))
    except DataError:
        found = []
    assert [PurePosixPath(info.path) for info in found] == [path.relative_to(root) for path in expected]


def test_file_of_a_web_server(server, place):
    server.files["/logs/log.csv"] = f"{HEADER}1,2,3\n".encode()
    server.files["/logs/log.csv?version=2"] = f"{HEADER}1,2,4\n".encode()
    server.faults = ["truncate", "500"]
    assert fetch(f"{server.url}/logs/log.csv", place) == [(1, 2, 3)]
    assert fetch(f"{server.url}/logs/log.csv?version=2", place) == [(1, 2, 4)]
    first = fingerprint(f"{server.url}/logs/log.csv", root=place)
    assert first["files"][0]["path"] == f"{server.url}/logs/log.csv"
    server.files["/logs/log.csv"] += b"1,2,5\n"
    assert fingerprint(f"{server.url}/logs/log.csv", root=place) != first
    with pytest.raises(DataError, match=r"no\.csv: HTTP 404"):
        fetch(f"{server.url}/no.csv", place)
    with pytest.raises(DataError, match="log: unknown suffix"):
        fetch(f"{server.url}/log", place)


def test_address_of_a_local_file(place):
    folder = place / "my files"
    folder.mkdir()
    (folder / "log.csv").write_text(HEADER + "1,2,3\n")
    for path in (f"{folder}/log.csv", str(folder).replace(" ", "%20") + "/log.csv", f"{folder}/*.csv"):
        for start in ("file://", "file://localhost", "FILE://"):
            fetch_log(start + path, place / "log.parquet", root=place)
            assert pl.read_parquet(place / "log.parquet").rows() == [(1, 2, 3)]
            [facts] = fingerprint(start + path, root=place)["files"]
            assert facts["path"] == str(folder / "log.csv")
    with pytest.raises(DataError, match="is a file that dataset"):
        fetch_log(f"file://{folder}/log.csv", folder / "log.csv", root=place)


def test_histories_behind_an_address_are_refused(place):
    with pytest.raises(DataError, match=r"histories 's3://shop/log\.parquet' is an address; allowed: a path, a folder"):
        write_history_log("s3://shop/log.parquet", place / "log.parquet", root=place, columns=Columns())
