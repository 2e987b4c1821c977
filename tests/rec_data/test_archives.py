"""Archives: unpacked whole, or not at all."""

import io
import tarfile
import zipfile

import pytest

from rec_data.archives import extract
from rec_data.errors import DataError


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_round_trip(tmp_path, make):
    folder = extract(make(tmp_path / "a", {"x/y.txt": "1", "z.txt": "2"}), tmp_path / "out")
    assert (folder / "x" / "y.txt").read_text() == "1"
    (folder / "z.txt").write_text("kept")
    extract(tmp_path / "a", folder)
    assert (folder / "z.txt").read_text() == "kept"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "..\\out.txt", "C:/out.txt"])
def test_member_that_would_leave(tmp_path, make, name):
    archive = make(tmp_path / "a", {"good.txt": "1", name: "2"})
    with pytest.raises(DataError, match="would leave the folder; nothing was unpacked"):
        extract(archive, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


def test_link_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "a", "w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="neither file nor folder"):
        extract(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archive(tmp_path, make):
    archive = make(tmp_path / "a", {"x.txt": "0123456789" * 1000, "y.txt": "2"})
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
