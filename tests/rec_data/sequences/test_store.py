"""The sequence store on disk."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rec_data.errors import DataError
from rec_data.sequences.store import SequenceStore, write_store


def write(path, *, targets=None, histories=((3, 1), (), (2,)), **options):
    write_store(
        path,
        items=np.array([item for history in histories for item in history], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, histories)]),
        user_ids=np.arange(len(histories), dtype=np.int32) + 7,
        targets=targets,
        **options,
    )
    return path


def test_round_trip(tmp_path):
    store = SequenceStore.open(write(tmp_path / "s.arrow", targets=np.array([4, 5, 6], dtype=np.int32)))
    assert (store.items.dtype, store.offsets.dtype) == (torch.int32, torch.int64)
    assert store.items.tolist() == [3, 1, 2]
    assert store.offsets.tolist() == [0, 2, 2, 3]
    assert store.user_ids.tolist() == [7, 8, 9]
    assert store.targets.tolist() == [4, 5, 6]
    assert store.lengths.tolist() == [2, 0, 1]
    assert len(store) == 3


def test_writing_to_a_tensor_leaves_the_file(tmp_path):
    path = write(tmp_path / "s.arrow")
    before = path.read_bytes()
    store = SequenceStore.open(path)
    assert store.targets is None
    store.items[0] = 99
    assert store.items.tolist() == [99, 1, 2]
    assert path.read_bytes() == before


def test_empty_store(tmp_path):
    store = SequenceStore.open(write(tmp_path / "s.arrow", histories=()))
    assert (len(store), store.items.tolist(), store.offsets.tolist()) == (0, [], [0])


def test_any_arrow_reader_reads_it(tmp_path):
    table = pa.ipc.open_file(str(write(tmp_path / "s.arrow"))).read_all()
    assert table.to_pydict() == {"user_id": [7, 8, 9], "items": [[3, 1], [], [2]]}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be opened"), (b"", "cannot be"), (b"x" * 100, "is not")]
)
def test_what_is_no_store_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.arrow").write_bytes(content)
    with pytest.raises(DataError, match=message):
        SequenceStore.open(tmp_path / "s.arrow")


I32 = {"user_id": [7, 8], "items": [[1, 2], [3]], "target": [4, 5]}
KINDS = {"user_id": pa.int32(), "items": pa.large_list(pa.int32()), "target": pa.int32()}
OTHERS = {
    "short offsets": ({"items": pa.list_(pa.int32())}, {}, None, "items: list<"),
    "long items": ({"items": pa.large_list(pa.int64())}, {}, None, "items: large_list<item: int64>"),
    "plain items": ({"items": pa.int32()}, {"items": [1, 2]}, None, "items: int32"),
    "long users": ({"user_id": pa.int64()}, {}, None, "user_id: int64"),
    "another column": ({"other": pa.int32()}, {"other": [1, 2]}, None, "other: int32"),
    "no history": ({}, {"items": [[1], None]}, None, "1 empty value in column items"),
    "no item": ({}, {"items": [[1], [None, None]]}, None, "2 empty values in column items"),
    "no user": ({}, {"user_id": [7, None]}, None, "1 empty value in column user_id"),
    "compressed": ({}, {}, "zstd", "it is compressed"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_stores_of_another_layout_are_refused(tmp_path, case):
    kinds, values, compression, message = OTHERS[case]
    kinds, values = {**KINDS, **kinds}, {**I32, **values}
    if compression:
        values = {name: column * 5000 for name, column in values.items()}
    batch = pa.record_batch([pa.array(values[name], kind) for name, kind in kinds.items()], names=list(kinds))
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=f"is not a sequence store: .*{message}") as caught:
        SequenceStore.open(tmp_path / "s.arrow")
    assert "\n" not in str(caught.value)


def test_other_arrow_file_is_refused(tmp_path):
    table = pa.table({"a": [1]})
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="is not a sequence store: its columns are a"):
        SequenceStore.open(tmp_path / "s.arrow")


def test_a_store_belongs_to_its_ids(tmp_path):
    path = write(tmp_path / "s.arrow", hashes={"items": "5f3a", "users": "77aa"})
    for hashes in (None, {"items": "5f3a"}, {"items": "5f3a", "users": "77aa"}):
        assert len(SequenceStore.open(path, hashes=hashes)) == 3
    with pytest.raises(DataError, match=r"s.arrow belongs to other users than users.parquet: found ids with the hash"):
        SequenceStore.open(path, hashes={"items": "5f3a", "users": "0000"})
    assert len(SequenceStore.open(write(tmp_path / "any.arrow"), hashes={"items": "5f3a"})) == 3


def test_a_file_without_a_checksum_is_refused(tmp_path):
    batch = pa.record_batch([pa.array(I32[name], kind) for name, kind in KINDS.items()], names=list(KINDS))
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=r"is not a sequence store: it has no checksum; allowed: one of this version$"):
        SequenceStore.open(tmp_path / "s.arrow")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"offsets": [0, 4, 3]}, "found offsets out of order, allowed: ascending from 0 to 3"),
        ({"items": [1, -2, 3]}, "column items: found -2, allowed: ids from 0"),
        ({"user_ids": [-1, 0]}, "column user_id: found -1"),
        ({"targets": [0, -100]}, "column target: found -100"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, changed, says):
    values = {"items": [1, 2, 3], "offsets": [0, 2, 3], "user_ids": [0, 1], "targets": [4, 5]} | changed
    arrays = {name: np.array(value, np.int64 if name == "offsets" else np.int32) for name, value in values.items()}
    write_store(tmp_path / "s.arrow", **arrays)
    with pytest.raises(DataError, match=says):
        SequenceStore.open(tmp_path / "s.arrow")


def test_every_bit_counts(tmp_path):
    """A flipped bit is refused in one line or changes nothing that is read; so is a file that was cut off."""
    targets = np.array([4, 5, 6], dtype=np.int32)
    path = write(tmp_path / "s.arrow", targets=targets, hashes={"items": "5f3a", "users": "77aa"})
    whole, store = path.read_bytes(), SequenceStore.open(path)
    random = np.random.default_rng(0)
    places = [*random.choice(8 * len(whole), 1500, replace=False).tolist()]
    cuts = random.choice(len(whole), 60, replace=False).tolist()
    for number, place in enumerate([*places, *cuts]):
        damaged = bytearray(whole[: place if number >= len(places) else None])
        if number < len(places):
            damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = SequenceStore.open(path, hashes={"items": "5f3a", "users": "77aa"})
        except DataError as error:
            refused = str(error)
        else:
            refused = ""
            names = vars(store).keys() - {"mapped"}
            assert all(torch.equal(getattr(found, name), getattr(store, name)) for name in names), place
        assert "\n" not in refused
