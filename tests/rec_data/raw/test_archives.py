"""Archives: unpacked whole, or not at all."""

import io
import tarfile
import zipfile

import pytest

from rec_data.errors import DataError
from rec_data.raw.archives import extract, is_litter


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
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


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_member_that_is_the_folder_itself(tmp_path, make):
    folder = extract(make(tmp_path / "a", {"./": "", "./x.txt": "1"}), tmp_path / "out")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("x.txt", "1")]


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


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [("a.zip", make_zip, "zip"), ("a.tgz", make_tar, "tar"), ("a.bin", make_zip, "zip or tar")],
)
def test_archive_cut_short_is_one_line(tmp_path, name, make, kind):
    archive = make(tmp_path / name, {"x.txt": "0123456789" * 1000})
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(DataError, match=f"it is not a {kind} file, or its end is missing$") as caught:
        extract(archive, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_damage_inside_a_compressed_tar(tmp_path):
    archive = make_tar(tmp_path / "a.tgz", {f"{number}.txt": f"{number * 7919}" * 500 for number in range(300)})
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(range(200))
    archive.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")


def test_what_macos_adds(tmp_path):
    names = ["set", "__MACOSX", "__MACOSX/set", "set/.DS_Store", "set/._x.parquet", "set/x.parquet"]
    assert [name for name in names if not is_litter(tmp_path / name, tmp_path)] == ["set", "set/x.parquet"]
    assert not is_litter(tmp_path / "__MACOSX" / "set", tmp_path / "__MACOSX")
