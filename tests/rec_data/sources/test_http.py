"""Downloads over HTTP, against a server that misbehaves."""

import bz2
import gzip
import hashlib
import io
import zipfile

import polars as pl
import pyarrow as pa
import pytest

from rec_data.errors import DataError
from rec_data.sources.http import ATTEMPTS, check, download

BODY = bytes(range(256)) * 5000
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@pytest.fixture
def served(server):
    server.files["/raw.bin"] = BODY
    return server


def names(folder):
    return {path.name for path in folder.iterdir()} - {"raw.bin.lock"}


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
    with pytest.raises(DataError, match=f"broke off {ATTEMPTS} times; last error: .*IncompleteRead"):
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
    with pytest.raises(DataError, match=r"sent a web page \(text/html\)"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert len(served.requests) == 1
    assert not names(tmp_path)


@pytest.mark.parametrize("suffix", ["gz", "tgz", "zip", "bz2", "zst", "parquet"])
def test_file_that_does_not_begin_as_its_suffix_says(served, tmp_path, suffix):
    served.files["/raw"] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match=rf"raw\.{suffix} begins with b'<htm': not a \.{suffix} file"):
        download(served.url + "/raw", tmp_path / f"raw.{suffix}")
    assert {path.name for path in tmp_path.iterdir()} == {f"raw.{suffix}.lock"}


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
    with pytest.raises(DataError, match=r"raw\.bin: HTTP 500"):
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
    with pytest.raises(DataError, match=r"nothing\.bin: HTTP 404"):
        download(served.url + "/nothing.bin", tmp_path / "raw.bin")
    assert len(served.requests) == 1
    assert not names(tmp_path)


def test_nobody_listens(tmp_path, served):
    with pytest.raises(DataError, match=r"raw\.bin failed: .*Max retries exceeded"):
        download("http://127.0.0.1:9/raw.bin", tmp_path / "raw.bin")


def test_wrong_checksum_leaves_nothing(served, tmp_path):
    with pytest.raises(DataError, match="expected 00: damaged or replaced"):
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
