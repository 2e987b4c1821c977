"""Parts of a subset behind an address: what is opened is copied once, and nothing else."""

from pathlib import Path

import pytest
from pyarrow import fs

from rec_data.errors import DataError
from rec_data.sources import remote
from rec_data.sources.remote_parts import remote_parts
from tests.rec_data.sequences.test_subsets import users_of, write_parts


def parts_of(folder, cache, **options):
    return remote_parts(f"file://{folder}", "train", cache=cache, **options)


def copies(cache):
    return sorted(path.name for path in cache.rglob("*.*") if path.is_file())


def test_only_what_is_opened_is_copied_and_only_once(tmp_path):
    store, cache = tmp_path / "bucket", tmp_path / "cache"
    write_parts(store, [[0, 2], [], [1]], hashes={"items": "5f"})
    found = parts_of(store, cache, hashes={"items": "5f"})
    assert (len(found), copies(cache)) == (3, [])
    assert users_of(found.open([3])) == [[1]]
    assert copies(cache) == ["part-00003-of-00003.arrow"]
    (store / "train" / "part-00003-of-00003.arrow").rename(tmp_path / "moved")
    assert users_of(found.open([3])) == [[1]]  # from the copy
    with pytest.raises(DataError, match="found 2 of 3 parts, missing: part-00003"):
        parts_of(store, cache)
    (tmp_path / "moved").rename(store / "train" / "part-00003-of-00003.arrow")
    with pytest.raises(DataError, match="belongs to other items"):
        list(parts_of(store, cache, hashes={"items": "6a"}).open([1]))
    write_parts(store, [[0, 2], [], [5]], hashes={"items": "5f"})  # another content: another copy
    assert users_of(parts_of(store, cache).open([3])) == [[5]]


def test_what_cannot_be_copied_is_said_in_one_line(tmp_path, monkeypatch):
    store, cache = tmp_path / "bucket", tmp_path / "cache"
    with pytest.raises(DataError, match=r"bucket/train: found no part, allowed: part-00001-of-00008.arrow and so on$"):
        parts_of(store, cache)
    with pytest.raises(DataError, match=r"found 'bucket', allowed: an address, as s3://bucket/split/sequences$"):
        remote_parts("bucket", "train")
    write_parts(store, [[0, 2], [1]])
    found, path = parts_of(store, cache), store / "train" / "part-00002-of-00002.arrow"
    content = bytearray(path.read_bytes())
    other = content.replace(b"\1\0\0\0" * 3, b"\2\0\0\0" * 3)
    faults = {
        "ended after 9 of": lambda: path.write_bytes(content[:9]),
        "part-00002-of-00002.arrow is damaged": lambda: path.write_bytes(other),
        "cannot be read": path.unlink,
    }  # fmt: skip
    for message, fault in faults.items():
        fault()
        with pytest.raises(DataError, match=message) as caught:
            list(found.open([2]))
        assert "\n" not in str(caught.value)
        assert copies(cache) == []
    path.write_bytes(content)

    opened = Path.open

    def full(self, mode="r", *arguments, **options):
        if self.suffix == ".part" and mode == "wb":
            raise OSError(28, "No space left on device")
        return opened(self, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match="cannot be written: No space left on device"):
            list(found.open([2]))
    assert users_of(found.open([2])) == [[1]]


def test_a_bucket_is_an_address(tmp_path, monkeypatch):
    write_parts(tmp_path / "bucket" / "split", [[0], [1]])
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(remote, "open_system", lambda address: (system, address.authority))
    found = remote_parts("s3://bucket/split", "train", cache=tmp_path / "cache")
    assert users_of(found.open()) == [[0], [1]]
