"""The stores of a split, and errors that name the stage."""

import numpy as np
import pytest

from cutrec.errors import StageError
from cutrec.stores import read_store, read_stores
from rec_data.sequences.parts import Part
from rec_data.sequences.store import write_store


def write_split(split, users):
    for number, own in enumerate(users, start=1):
        part = Part(number, len(users)) if len(users) > 1 else None
        path = split / "sequences" / ("train.arrow" if part is None else f"train/{part.name}.arrow")
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = np.array(own, dtype=np.int32)
        write_store(path, items=ids, offsets=np.arange(len(ids) + 1), user_ids=ids, part=part)
    return split


def test_stores_of_a_split(tmp_path):
    split = write_split(tmp_path / "split", [[0, 2], [1]])
    assert [store.user_ids.tolist() for store in read_stores(split, "train")] == [[0, 2], [1]]
    with pytest.raises(StageError, match=r"split: found a split in 2 parts, allowed: 1 here"):
        read_store(split, "train")
    (split / "sequences" / "train" / "part-00002-of-00002.arrow").unlink()
    with pytest.raises(StageError, match=r"missing: part-00002-of-00002.arrow; `dvc repro -f split` makes it again$"):
        next(read_stores(split, "train"))
    with pytest.raises(StageError, match=r"test.arrow: no such file, the stage split writes it \(dvc repro\)$"):
        next(read_stores(split, "test"))
    assert read_store(write_split(tmp_path / "one", [[0, 1]]), "train").user_ids.tolist() == [0, 1]
