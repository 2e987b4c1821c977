"""The stores of a subset, in one file or in parts."""

import shutil

import numpy as np
import pytest

from rec_data.errors import DataError
from rec_data.sequences.parts import Part
from rec_data.sequences.store import SequenceStore, write_store
from rec_data.sequences.subsets import open_stores, store_files


def write(path, users, part=None, run=None, hashes=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = np.repeat(np.array(users, dtype=np.int32), 3)
    write_store(
        path,
        items=items,
        offsets=np.arange(0, len(items) + 1, 3),
        user_ids=np.array(users, dtype=np.int32),
        hashes=hashes,
        part=part,
        run=run,
    )


def write_parts(folder, users, run="a" * 64, hashes=None):
    for number, own in enumerate(users, start=1):
        part = Part(number, len(users))
        write(folder / "train" / f"{part.name}.arrow", own, part, run, hashes)


def users_of(stores):
    return [store.user_ids.tolist() for store in stores]


def test_a_subset_in_one_file_or_in_parts(tmp_path):
    write(tmp_path / "one" / "train.arrow", [0, 1, 2], hashes={"items": "5f"})
    write_parts(tmp_path / "many", [[0, 2], [], [1]], hashes={"items": "5f"})
    assert users_of(open_stores(tmp_path / "one", "train", hashes={"items": "5f"})) == [[0, 1, 2]]
    assert users_of(open_stores(tmp_path / "many", "train", hashes={"items": "5f"})) == [[0, 2], [], [1]]
    assert users_of(open_stores(tmp_path / "many", "train", only=[3, 1])) == [[0, 2], [1]]
    assert [path.name[:10] for path in store_files(tmp_path / "many", "train")] == [f"part-0000{n}" for n in (1, 2, 3)]
    for only in ([0], [4]):
        with pytest.raises(DataError, match=rf"part: found {only[0]}, allowed: 1 to 3$"):
            open_stores(tmp_path / "many", "train", only=only)
    with pytest.raises(DataError, match="belongs to other items"):
        list(open_stores(tmp_path / "many", "train", hashes={"items": "6a"}))


def missing(folder):
    (folder / "train" / "part-00002-of-00003.arrow").unlink()


def twice(folder):
    shutil.copy(folder / "train" / "part-00001-of-00003.arrow", folder / "train" / "part-00002-of-00003.arrow")


def other_count(folder):
    write(folder / "train" / "part-00002-of-00004.arrow", [5], Part(2, 4), "a" * 64)


def other_name(folder):
    shutil.copy(folder / "train" / "part-00001-of-00003.arrow", folder / "train" / "part-1-of-3.arrow")


def other_run(folder):
    write(folder / "train" / "part-00002-of-00003.arrow", [5], Part(2, 3), "b" * 64)


def both(folder):
    write(folder / "train.arrow", [0, 1, 2])


def a_whole_one(folder):
    write(folder / "train" / "part-00002-of-00003.arrow", [5])


def a_part_alone(folder):
    shutil.copy(folder / "train" / "part-00001-of-00003.arrow", folder / "train.arrow")
    shutil.rmtree(folder / "train")


def nothing(folder):
    shutil.rmtree(folder / "train")


def cut_short(folder):
    path = folder / "train" / "part-00002-of-00003.arrow"
    path.write_bytes(path.read_bytes()[:-9])


FAULTS = {
    missing: r"train: found 2 of 3 parts, missing: part-00002-of-00003.arrow$",
    twice: r"part-00002-of-00003.arrow: found part 1/3, allowed: part 2/3$",
    other_count: r"found part-00002-of-00004.arrow, allowed: parts of one number of parts, as part-00001-of-00003",
    other_name: r"found part-1-of-3.arrow, allowed: parts of one number",
    other_run: r"part-00002-of-00003.arrow is of another run than part 1: found bbbbbbbbbbbb, allowed: aaaaaaaaa",
    both: r"found train.arrow and the parts train/part-00001-of-00003.arrow ..., allowed: one of both$",
    a_whole_one: r"part-00002-of-00003.arrow: found a store without parts, allowed: part 2/3$",
    a_part_alone: r"train.arrow: found part 1/3, allowed: a store without parts$",
    nothing: r"train.arrow cannot be opened: no such file$",
    cut_short: r"part-00002-of-00003.arrow is not a sequence store: ",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_are_not_one_whole_subset_are_refused(tmp_path, fault):
    write_parts(tmp_path, [[0, 2], [4, 5], [1]])
    fault(tmp_path)
    with pytest.raises(DataError, match=FAULTS[fault]) as caught:
        open_stores(tmp_path, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "run", "said"),
    [
        (3, "b", "found part 1/3 of run bbbbbbbbbbbb, allowed: part 1/3 of run aaaaaaaaaaaa$"),
        (2, "a", "found part 1/2 of run aaaaaaaaaaaa, allowed: part 1/3 of run aaaaaaaaaaaa$"),
        (1, "a", "found a store without parts of run none, allowed: part 1/3 of run"),
    ],
)
def test_a_subset_of_another_split_is_refused(tmp_path, number, run, said):
    write_parts(tmp_path, [[0, 2], [4, 5], [1]])
    write_parts(tmp_path / "other", [[0]] * number, run * 64)
    (tmp_path / "notes").mkdir()
    if number == 1:
        write(tmp_path / "test.arrow", [0])
    else:
        shutil.move(tmp_path / "other" / "train", tmp_path / "test")
    with pytest.raises(DataError, match=said):
        store_files(tmp_path, "train")


@pytest.mark.parametrize("name", [b"2/3", b"aaaaaaaa"])
def test_part_and_run_are_under_the_checksum(tmp_path, name):
    write_parts(tmp_path, [[0, 2], [4, 5], [1]])
    path = tmp_path / "train" / "part-00002-of-00003.arrow"
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"9"))
    with pytest.raises(DataError, match="damaged"):
        SequenceStore.open(path)
