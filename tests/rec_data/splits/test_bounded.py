"""The split within a bound of memory: in several parts, row for row that in memory, and nothing of one that fails."""

import re
from types import SimpleNamespace

import polars as pl
import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.splits import bounded, split
from rec_data.splits.split import split_log
from tests.rec_data.splits.in_parts import CASES, check_equal, write_log

GIB = 2**30


def split_both(tmp_path, monkeypatch, log, settings, parts, **options):
    folders = tmp_path / "memory", tmp_path / "parts"
    for folder in folders:
        folder.mkdir()
    expected = split_log(log, folders[0], settings, **options)
    monkeypatch.setattr(split, "parts_of", lambda rows, bound: parts)
    return folders, expected, split_log(log, folders[1], settings, **options)


@pytest.mark.parametrize("parts", [2, 7, None])
@pytest.mark.parametrize("case", CASES)
def test_the_parts_together_are_the_split_in_memory(tmp_path, monkeypatch, case, parts):
    shape, settings, of_case, options = CASES[case]
    parts = parts or of_case
    monkeypatch.setattr(bounded, "_ROWS", 100)
    log = write_log(tmp_path, **shape, seed=parts)
    folders, expected, found = split_both(tmp_path, monkeypatch, log, settings, parts, **options)
    check_equal(folders, expected, found, parts)
    assert not list(folders[1].glob(".*"))


def test_the_number_of_parts_is_that_of_interactions_and_bound():
    assert [bounded.parts_of(rows, None) for rows in (1, 2**28, 2**28 + 1, 10**9)] == [1, 1, 5, 15]
    for bound in (GIB, 2 * GIB, 8 * GIB):
        numbers = [bounded.parts_of(rows, bound) for rows in (1, 10**6, 10**8, 10**9)]
        assert numbers == sorted(numbers)
        assert numbers[0] == 1 < numbers[3]
    assert bounded.parts_of(10**9, 2 * GIB) > bounded.parts_of(10**9, 8 * GIB) > 1


def test_a_bound_that_users_and_items_exceed_is_refused_with_one_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "_PER_ID", 3 * 2**20)
    monkeypatch.setattr(split, "parts_of", lambda rows, bound: 2)
    log = write_log(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=r"^split.memory: found 1GiB for 60 users and \d+ items, allowed: at "):
        split_log(log, out, Split(memory="1GiB"))
    assert not list(out.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(bounded, "_PER_ROW", 2**21)
        with pytest.raises(DataError, match=r"^split.memory: found 2GiB .* and a part of \d+ interactions, all"):
            split_log(log, out, Split(memory="2GiB"))
    assert not list(out.iterdir())
    assert split_log(log, out, Split(memory="2GiB"))["parts"] == 2


@pytest.mark.parametrize(("rows", "longest"), [(6 * 10**7, 3 * 10**7), (2 * 10**8, 6 * 10**7), (10**9, 10**8)])
def test_a_bound_that_a_user_with_very_many_events_exceeds_is_refused_with_one_that_works(rows, longest):
    ids = pl.Series([0])
    found = SimpleNamespace(users=ids, items=ids, raw={"users": 10**6, "items": 10**6})

    def split_within(gib: int) -> None:
        mean = -(-rows // bounded.parts_of(rows, gib * GIB))
        bounded._refuse_too_small(Split(memory=f"{gib}GiB"), found, mean + longest)

    with pytest.raises(DataError, match="allowed: at least") as refused:
        split_within(2)
    split_within(int(re.search(r"at least (\d+)GiB", str(refused.value))[1]))


def test_the_points_of_the_paper_have_one_part(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "parts_of", lambda rows, bound: 2)
    log = write_log(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"^split.memory: found auto, which makes 2 parts, with paper_faithful, al"):
        split_log(log, tmp_path / "out", paper_faithful=True)


def test_a_bound_that_is_no_size_is_refused():
    for memory in (8, 0, None, "8", "8 GiB", "8GB", "0GiB", "-1GiB", "1.5GiB", "512MiB"):
        with pytest.raises(ValueError, match="allowed: auto, or whole GiB such as 8GiB"):
            Split(memory=memory)
