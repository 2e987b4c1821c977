"""The hash of a catalogue: of its values, whatever holds them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as some

from rec_data import arrays
from rec_data.errors import DataError
from rec_data.ids import hash_chunks, hash_ids, read_ids

VALUES = {
    pa.int64(): some.integers(-(2**63), 2**63 - 1),
    pa.uint64(): some.integers(0, 2**64 - 1),
    pa.string(): some.text(),
}
IDS = some.one_of(
    some.builds(pa.array, some.lists(values, min_size=1), some.just(kind)) for kind, values in VALUES.items()
)


@given(IDS, IDS)
def test_ids_have_the_same_hash_if_they_are_the_same(left, right):
    assert (hash_ids(left) == hash_ids(right)) == (left.to_pylist() == right.to_pylist())


@given(some.lists(some.text(), min_size=1), some.integers(1, 4))
def test_the_kind_of_strings_and_of_columns_does_not_count(names, block):
    kinds = [pa.string(), pa.large_string(), pa.string_view()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK", block)
        hashes = {hash_ids(pa.array(["cut off", *names], kind)[1:]) for kind in kinds}
        chunks = [pa.array(names[start : start + 3]) for start in range(0, len(names), 3)]
        hashes.add(hash_chunks(chunks, pa.string()))
    assert len(hashes) == 1


def test_the_width_of_integers_does_not_count_and_their_order_does():
    assert len({hash_ids(pa.array([3, 100], kind)) for kind in (pa.int8(), pa.uint16(), pa.int64(), pa.uint64())}) == 1
    assert hash_ids(pa.array([3, 100])) != hash_ids(pa.array([100, 3]))
    assert hash_ids(pa.array(["1", "2"])) != hash_ids(pa.array([1, 2]))
    assert hash_ids(pa.array(["ab", "c"])) != hash_ids(pa.array(["a", "bc"]))
    assert hash_ids(pa.array([2**64 - 1], pa.uint64())) != hash_ids(pa.array([-1]))


@pytest.mark.parametrize(
    "column", [pa.array(["a", "b", "a"]).dictionary_encode(), pa.chunked_array([["a"], ["b", "a"]])]
)
def test_the_file_does_not_count(tmp_path, column):
    pq.write_table(pa.table({"other": [1, 2, 3], "original_id": column}), tmp_path / "ids.parquet", row_group_size=2)
    found = read_ids(tmp_path / "ids.parquet")
    assert (found.names.to_pylist(), found.hash) == (["a", "b", "a"], hash_ids(pa.array(["a", "b", "a"])))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"original_id": [1.5]}, "holds double with 0 empty values; allowed: integers or strings, none empty"),
        ({"original_id": [1, None]}, "holds int64 with 1 empty values"),
        ({"id": [1]}, "is damaged, or has no column 'original_id'"),
    ],
)
def test_what_holds_no_ids_is_refused(tmp_path, values, says):
    pq.write_table(pa.table(values), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=says) as caught:
        read_ids(tmp_path / "ids.parquet")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"ids\.parquet: no such file"):
        read_ids(tmp_path / "ids.parquet")
