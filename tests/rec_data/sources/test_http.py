"""Downloads over HTTP, against a server that misbehaves."""

import bz2
import contextlib
import gzip
import hashlib
import io
import multiprocessing
import resource
import shutil
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.sources import http
from rec_data.sources.http import ATTEMPTS, check, download

BODY = bytes(range(256)) * 5000
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@pytest.fixture
def served(server):
    server.files["/raw.bin"] = BODY
    return server


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("checksum", [None, SHA256, MD5])
def test_whole_file_once(served, tmp_path, checksum):
    path = download(served.url + "/raw.bin", tmp_path / "new" / "raw.bin", checksum=checksum)
    assert path.read_bytes() == BODY
    assert names(path.parent) == {"raw.bin", "raw.bin.sha256"}
    download(served.url + "/raw.bin", path, checksum=checksum)
    assert len(served.requests) == 1


def test_truncated_transfer_is_resumed(served, tmp_path):
    served.faults = ["truncate", "truncate"]
    path = download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256)
    assert path.read_bytes() == BODY
    half, quarter = len(BODY) // 2, len(BODY) // 4
    assert [asked for _, asked in served.requests] == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


def test_transfers_that_always_break_off_are_given_up(served, tmp_path):
    served.faults = ["truncate"] * (2 * ATTEMPTS)
    with pytest.raises(DataError, match=rf"broke off {ATTEMPTS} times; last error: .*IncompleteRead.*download\.mirror"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert names(tmp_path) == {"raw.bin.part", "raw.bin.part.json"}


@pytest.mark.parametrize("fault", ["shift", "unplaced"])
def test_another_range_than_asked_starts_again(served, tmp_path, fault):
    served.faults = ["truncate", fault]
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin").read_bytes() == BODY
    assert [asked for _, asked in served.requests] == [None, f"bytes={len(BODY) // 2}-", None]


def test_part_of_what_is_left(served, tmp_path):
    served.faults = ["truncate", "less"]
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin").read_bytes() == BODY
    half = len(BODY) // 2
    assert [asked for _, asked in served.requests] == [None, f"bytes={half}-", f"bytes={half + 100}-"]


def test_web_page_in_place_of_the_file(served, tmp_path):
    served.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match=r"sent a web page \(text/html\).*download\.mirror"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert len(served.requests) == 1
    assert not names(tmp_path)


@pytest.mark.parametrize("suffix", ["gz", "tgz", "zip", "bz2", "zst", "parquet"])
def test_file_that_does_not_begin_as_its_suffix_says(served, tmp_path, suffix):
    served.files["/raw"] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match=rf"raw\.{suffix} begins with b'<htm': not a \.{suffix} file.*download\.mirror"):
        download(served.url + "/raw", tmp_path / f"raw.{suffix}")
    assert {path.name for path in tmp_path.iterdir()} == set()


def test_files_that_begin_as_their_suffixes_say(served, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "content")
    parquet = io.BytesIO()
    pl.DataFrame({"x": [1]}).write_parquet(parquet)
    text = b"content"
    bodies = {
        "gz": gzip.compress(text),
        "zip": buffer.getvalue(),
        "bz2": bz2.compress(text),
        "zst": pa.compress(text, codec="zstd", asbytes=True),
        "parquet": parquet.getvalue(),
    }
    for suffix, body in bodies.items():
        served.files["/raw"] = body
        assert download(served.url + "/raw", tmp_path / f"raw.{suffix}").read_bytes() == body


@pytest.mark.parametrize("written", ["{}\n", "{} *raw.bin\n", "{}  raw.bin\n", "\\{}  raw\\n.bin\n"])
def test_checksum_as_sha256sum_writes_it(tmp_path, written):
    path = tmp_path / "raw.bin"
    path.write_bytes(BODY)
    for digits in (SHA256.removeprefix("sha256:"), SHA256.removeprefix("sha256:").upper()):
        (tmp_path / "raw.bin.sha256").write_text(written.format(digits))
        check(path, None)
    (tmp_path / "raw.bin.sha256").write_text(written.format("0" * 64))
    with pytest.raises(DataError, match=r"expected 0{64}: damaged or replaced; delete it"):
        check(path, None)


@pytest.mark.parametrize("written", ["", "abc\n", "raw.bin\n"])
def test_record_without_a_checksum(tmp_path, written):
    (tmp_path / "raw.bin").write_bytes(BODY)
    (tmp_path / "raw.bin.sha256").write_text(written)
    with pytest.raises(DataError, match=r"raw\.bin\.sha256 does not begin with a SHA-256"):
        check(tmp_path / "raw.bin", None)


def test_later_call_goes_on(served, tmp_path):
    served.faults = ["truncate"] + ["500"] * ATTEMPTS
    with pytest.raises(DataError, match=r"raw\.bin: HTTP 500.*download\.mirror"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert names(tmp_path) == {"raw.bin.part", "raw.bin.part.json"}
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin").read_bytes() == BODY
    assert served.requests[-1][1] == f"bytes={len(BODY) // 2}-"


def test_file_that_changed_meanwhile_starts_again(served, tmp_path):
    served.faults = ["truncate"] + ["500"] * ATTEMPTS
    with pytest.raises(DataError):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    served.files["/raw.bin"], served.etag = BODY[::-1], '"v2"'
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("broken", [{"ranges": False}, {"etag": ""}])
def test_server_that_cannot_resume(served, tmp_path, broken):
    for name, value in broken.items():
        setattr(served, name, value)
    served.faults = ["truncate", "500", "429"]
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256).read_bytes() == BODY


def test_missing_file_is_not_tried_again(served, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.bin: HTTP 404.*download\.mirror"):
        download(served.url + "/nothing.bin", tmp_path / "raw.bin")
    assert len(served.requests) == 1
    assert not names(tmp_path)


def test_nobody_listens(tmp_path, served):
    with pytest.raises(DataError, match=r"raw\.bin failed: .*Max retries exceeded.*download\.mirror"):
        download("http://127.0.0.1:9/raw.bin", tmp_path / "raw.bin")


def test_wrong_checksum_leaves_nothing(served, tmp_path):
    with pytest.raises(DataError, match=r"expected 00: damaged or replaced.*download\.mirror"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum="sha256:00")
    assert not names(tmp_path)


@pytest.mark.parametrize("checksum", [None, MD5])
def test_damage_after_the_download_is_noticed(served, tmp_path, checksum):
    path = download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=checksum)
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(DataError, match="delete it to download it again"):
        download(served.url + "/raw.bin", path, checksum=checksum)


def test_part_longer_than_the_file(served, tmp_path):
    served.faults = ["truncate"] + ["500"] * ATTEMPTS
    with pytest.raises(DataError):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    with (tmp_path / "raw.bin.part").open("ab") as part:
        part.write(BODY)
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256).read_bytes() == BODY


FAULTS = st.lists(
    st.sampled_from(["truncate", "500", "429", "shift", "less", "unplaced", "replace", "ok"]), max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=FAULTS, ranges=st.booleans(), etags=st.booleans())
def test_whatever_fails_a_file_is_one_version_and_whole(served, tmp_path_factory, faults, ranges, etags):
    versions = [bytes([number]) * 50_000 for number in range(20)]
    served.requests.clear()
    served.ranges, served.faults, served.versions = ranges, list(faults), list(versions)
    served.etag = '"v0"' if etags else ""
    served.files["/raw.bin"] = versions[0]
    folder = tmp_path_factory.mktemp("faults")
    for _ in range(4):
        with contextlib.suppress(DataError):
            download(served.url + "/raw.bin", folder / "raw.bin")
        if (folder / "raw.bin").exists():
            break
        assert not (folder / "raw.bin.sha256").exists()
    assert (folder / "raw.bin").read_bytes() in versions
    assert names(folder) == {"raw.bin", "raw.bin.sha256"}


@pytest.mark.parametrize("written", ["", "{", "[]", "null"])
def test_damaged_record_of_a_partial_file_starts_again(served, tmp_path, written):
    served.faults = ["truncate"] + ["500"] * ATTEMPTS
    with pytest.raises(DataError):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    (tmp_path / "raw.bin.part.json").write_text(written)
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256).read_bytes() == BODY
    assert served.requests[-1][1] is None


def test_encoded_answer_is_refused_where_the_name_has_no_compression(served, tmp_path):
    served.encoding = "gzip"
    with pytest.raises(DataError, match=r"sent it with encoding gzip; allowed: identity.*download\.mirror"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert not names(tmp_path)
    served.files["/raw.gz"] = gzip.compress(BODY)  # some servers describe the file itself so
    assert download(served.url + "/raw.gz", tmp_path / "raw.gz").read_bytes() == served.files["/raw.gz"]


def limited(size, url, path, answers):
    """Download where files may have no more than ``size`` bytes, as after ``ulimit -f``."""
    sys.dont_write_bytecode = True  # Python keeps a cut-off .pyc file
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        answers.put(str(download(url, path)))
    except DataError as error:
        answers.put(f"refused: {error}")


def run(target, *arguments, processes=1):
    """Call a function with arguments and a queue in other processes, and return what they put there."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    running = [context.Process(target=target, args=(*arguments, answers)) for _ in range(processes)]
    for process in running:
        process.start()
    found = [answers.get(timeout=60) for _ in running]
    for process in running:
        process.join()
    return found


def test_limit_on_the_size_of_files_names_the_file_and_its_folder(served, tmp_path):
    [answer] = run(limited, 100_000, served.url + "/raw.bin", tmp_path / "raw.bin")
    assert answer == f"refused: {tmp_path / 'raw.bin.part'} cannot be written: File too large (in {tmp_path})"
    assert names(tmp_path) == {"raw.bin.part", "raw.bin.part.json"}
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256).read_bytes() == BODY
    assert served.requests[-1][1] == "bytes=100000-"


def test_processes_that_want_the_same_file_transfer_it_once(served, tmp_path):
    served.faults = ["truncate", "truncate"]
    answers = run(limited, -1, served.url + "/raw.bin", tmp_path / "raw.bin", processes=4)
    assert answers == [str(tmp_path / "raw.bin")] * 4
    assert (tmp_path / "raw.bin").read_bytes() == BODY
    assert len(served.requests) == 3
    assert names(tmp_path) == {"raw.bin", "raw.bin.sha256"}


def test_killed_process_leaves_what_the_next_one_continues(served, tmp_path):
    served.pause = 0.02
    served.files["/raw.bin"] = BODY * 10
    context = multiprocessing.get_context("fork")
    part, path = tmp_path / "raw.bin.part", tmp_path / "raw.bin"
    for _ in range(3):
        before = part.stat().st_size if part.exists() else 0
        process = context.Process(target=download, args=(served.url + "/raw.bin", path))
        process.start()
        until = time.monotonic() + 30
        while time.monotonic() < until and not (part.exists() and part.stat().st_size > before):
            time.sleep(0.01)
        process.kill()
        process.join()
        assert not path.exists()
    served.pause = 0
    assert download(served.url + "/raw.bin", path).read_bytes() == BODY * 10
    assert served.requests[-1][1] is not None
    assert names(tmp_path) == {"raw.bin", "raw.bin.sha256"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate of localhost that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    command = [*make.split(), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def secure(served, certificate, monkeypatch):
    """The address of a server with TLS that redirects to what a test names, and how often it was connected to."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    state = {"to": served.url + "/raw.bin", "connections": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", state["to"])
            self.end_headers()

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        def get_request(self):
            state["connections"] += 1
            return super().get_request()

        def handle_error(self, request, client_address):
            pass

    listener = Server(("localhost", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    state["url"] = f"https://localhost:{listener.server_port}"
    yield state
    listener.shutdown()
    listener.server_close()


def test_redirect_from_https_to_http_is_refused(secure, served, tmp_path, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
    with pytest.raises(
        DataError,
        match=rf"{secure['url']}/x leads to {served.url}/raw\.bin, without TLS; allowed: https.*download\.mirror",
    ):
        download(secure["url"] + "/x", tmp_path / "raw.bin")
    assert not served.requests
    assert not names(tmp_path)


def test_certificate_that_is_not_valid_is_final_and_names_the_mirror(secure, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 10.0)
    with pytest.raises(DataError, match=r"certificate of localhost is not valid: self.signed.*download\.mirror"):
        download(secure["url"] + "/x", tmp_path / "raw.bin")
    assert secure["connections"] == 1
    assert not names(tmp_path)
