"""Archives: unpacked whole, or not at all."""

import io
import multiprocessing
import resource
import shutil
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.raw import archives
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


def packed(kind):
    """The bytes of an archive of two texts, and the texts by name; every kind has a checksum of its content."""
    texts = {"set/a.csv": "".join(f"{row},{row * 7919 % 1000}\n" for row in range(300)), "set/b.csv": "1,2\n"}
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
            for name, text in texts.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue(), texts


PACKED = {kind: packed(kind) for kind in ("zip", "gz", "bz2", "xz")}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(PACKED)),
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    tail=st.binary(max_size=30),
)
def test_damaged_archives_give_all_their_content_or_one_line(kind, cut, flips, tail):
    content, texts = PACKED[kind]
    damaged = bytearray(content if cut is None else content[: int(cut * len(content))])
    for place, mask in flips:
        if damaged:
            damaged[int(place * len(damaged))] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"a.{kind}"
        archive.write_bytes(damaged + tail)
        message, out = "", Path(folder) / "out"
        try:
            extract(archive, out)
        except DataError as error:
            message = str(error)
        found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
        assert found == ({} if message else texts)
        assert {path.name for path in Path(folder).iterdir()} == ({archive.name} if message else {archive.name, "out"})
        assert "\n" not in message


def zeros(path, size):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    else:
        with tarfile.open(path, "w:gz") as archive, tempfile.TemporaryFile() as file:
            file.truncate(size)
            member = tarfile.TarInfo("zeros")
            member.size = size
            archive.addfile(member, file)
    return path


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tgz"])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "FREE_BYTES", 10 << 20)
    archive = zeros(tmp_path / name, 48 << 20)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpacks to 50,331,648 bytes or more; allowed: 10,485,760, 200 times its own"):
        extract(archive, tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    extract(zeros(tmp_path / f"small{archive.suffix}", 8 << 20), tmp_path / "out")


def test_zip_that_understates_its_size_is_refused(tmp_path):
    content = zeros(tmp_path / "a.zip", 4 << 20).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((4 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked: Bad CRC-32"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_archive_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"x.txt": "1" * 1000})
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=rf"to 1,000 bytes or more, but {tmp_path} has only 999 free; nothing was"):
        extract(archive, tmp_path / "out")
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    with pytest.raises(DataError, match=r"b\.zip has more than 3 members"):
        extract(make_zip(tmp_path / "b.zip", dict.fromkeys("abcd", "")), tmp_path / "out")


def unpack_with_limit(archive, out, answers):
    sys.dont_write_bytecode = True  # Python keeps a cut-off .pyc file
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        extract(archive, out)
    except DataError as error:
        answers.put(str(error))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_limit_on_the_size_of_files_is_not_the_archives_fault(tmp_path, make):
    numbers = ",".join(map(str, np.random.default_rng(0).integers(0, 10**6, 20_000)))
    archive = make(tmp_path / "a", {"x.txt": numbers})
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=unpack_with_limit, args=(archive, tmp_path / "out", answers))
    process.start()
    assert answers.get(timeout=60) == f"{tmp_path / 'out'} cannot be written: File too large (in {tmp_path})"
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
