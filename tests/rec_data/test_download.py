"""Downloads over HTTP, against a server that misbehaves."""

import hashlib

import pytest

from rec_data.download import ATTEMPTS, download
from rec_data.errors import DataError

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


def test_later_call_goes_on(served, tmp_path):
    served.faults = ["truncate"] + ["500"] * (ATTEMPTS - 1)
    with pytest.raises(DataError, match=f"failed {ATTEMPTS} times; at last: HTTP 500"):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    assert names(tmp_path) == {"raw.bin.part", "raw.bin.part.json"}
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin").read_bytes() == BODY
    assert served.requests[-1][1] == f"bytes={len(BODY) // 2}-"


def test_file_that_changed_meanwhile_starts_anew(served, tmp_path):
    served.faults = ["truncate"] + ["500"] * (ATTEMPTS - 1)
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
    with pytest.raises(DataError, match=f"failed {ATTEMPTS} times"):
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
    served.faults = ["truncate"] + ["500"] * (ATTEMPTS - 1)
    with pytest.raises(DataError):
        download(served.url + "/raw.bin", tmp_path / "raw.bin")
    with (tmp_path / "raw.bin.part").open("ab") as part:
        part.write(BODY)
    assert download(served.url + "/raw.bin", tmp_path / "raw.bin", checksum=SHA256).read_bytes() == BODY
