"""Kaggle's own client against a local server."""

import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rec_data.errors import DataError
from rec_data.sources import kaggle as module


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without credentials."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_without_credentials_it_says_so_and_stops(home):
    with pytest.raises(
        DataError, match=r"needs credentials, and none were found: set KAGGLE_USERNAME and KAGGLE_KEY.*download\.mirror"
    ):
        module.download("alexxl/zvuk-dataset", "zvuk-interactions.parquet", home / "raw.parquet")
    assert not list(home.iterdir())


@pytest.mark.parametrize("place", [{"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "x"}, {"KAGGLE_API_TOKEN": "x"}])
def test_credentials_of_the_environment(home, monkeypatch, place):
    assert not module.has_credentials()
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert module.has_credentials()


def test_token_file(home, monkeypatch):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home))
    assert not module.has_credentials()
    (home / "kaggle.json").write_text("{}")
    assert module.has_credentials()


@pytest.fixture
def kaggle(home, monkeypatch):
    """Kaggle's server: asked for a download, it redirects to a store that holds the file, and knows one user."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.headers.get("Authorization"):
                self.send_error(401)
            else:
                name = next(iter(files))
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/store/{name}?signed=1")
                self.end_headers()

        def do_GET(self):
            body = files.get(self.path.removeprefix("/store/").partition("?")[0])
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Last-Modified", "Tue, 01 Oct 2024 00:00:00 GMT")
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    from kagglesdk import kaggle_env

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, f"http://127.0.0.1:{server.server_port}"
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield files
    server.shutdown()
    server.server_close()


def test_download(kaggle, home):
    kaggle["raw.parquet"] = b"PAR1" + b"0123456789" * 1000
    path = module.download("alexxl/zvuk-dataset", "raw.parquet", home / "cache" / "raw.parquet")
    assert path.read_bytes() == kaggle["raw.parquet"]
    names = {"raw.parquet", "raw.parquet.sha256"}
    assert {found.name for found in path.parent.iterdir()} == names
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="delete it to download it again"):
        module.download("alexxl/zvuk-dataset", "raw.parquet", path)


def test_file_that_comes_zipped(kaggle, home):
    with zipfile.ZipFile(home / "z", "w") as archive:
        archive.writestr("raw.parquet", "PAR1 content")
    kaggle["raw.parquet.zip"] = (home / "z").read_bytes()
    path = module.download("alexxl/zvuk-dataset", "raw.parquet", home / "cache" / "raw.parquet")
    assert path.read_bytes() == b"PAR1 content"


def test_archive_without_the_file(kaggle, home):
    with zipfile.ZipFile(home / "z", "w") as archive:
        archive.writestr("other.parquet", "PAR1 content")
    kaggle["raw.parquet.zip"] = (home / "z").read_bytes()
    with pytest.raises(DataError, match=r"file raw\.parquet: its archive does not hold the file.*download\.mirror"):
        module.download("alexxl/zvuk-dataset", "raw.parquet", home / "cache" / "raw.parquet")
    assert {found.name for found in (home / "cache").iterdir()} == set()


def test_something_else_than_parquet(kaggle, home):
    kaggle["raw.parquet"] = b"<html>"
    with pytest.raises(DataError, match=r"raw\.parquet begins with b'<htm'.*download\.mirror"):
        module.download("alexxl/zvuk-dataset", "raw.parquet", home / "cache" / "raw.parquet")
    assert {found.name for found in (home / "cache").iterdir()} == set()


def test_refusal(kaggle, home):
    kaggle["missing"] = None
    with pytest.raises(
        DataError, match=r"Kaggle data set alexxl/zvuk-dataset, file raw\.parquet: 404.*download\.mirror"
    ):
        module.download("alexxl/zvuk-dataset", "raw.parquet", home / "cache" / "raw.parquet")
