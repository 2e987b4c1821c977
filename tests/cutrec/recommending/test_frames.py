"""Ids of callers as Arrow arrays, and where they are found."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutrec.recommending.frames import Index, cast_like, to_ids, type_name

NAMES = [3, 7, 10, 2**40]


@pytest.mark.parametrize(
    "values",
    [
        NAMES,
        tuple(NAMES),
        dict.fromkeys(NAMES).keys(),
        np.array(NAMES),
        np.array(NAMES, dtype=float),
        pd.Series(NAMES, index=[5, 6, 7, 8]),
        pd.Series([*NAMES, None])[:4],  # floats
        pd.Series(NAMES).astype("category"),
        pl.Series(NAMES),
        pa.chunked_array([NAMES[:1], NAMES[1:]]),
        map(str, NAMES),
        pd.Series(map(str, NAMES), dtype="category"),
        pl.Series(map(str, NAMES)),
    ],
    ids=lambda values: type(values).__name__,
)
def test_ids_are_found_in_any_container_as_integers_or_as_text(values):
    ids = to_ids("users", values)
    for names in (pa.array(NAMES), pa.array(NAMES, pa.uint64()), pa.array(list(map(str, NAMES)), pa.large_string())):
        assert Index(names).find(ids).tolist() == [0, 1, 2, 3]


def test_a_single_id_and_the_largest_integers():
    assert to_ids("users", "ab").to_pylist() == ["ab"]
    assert to_ids("users", np.int64(5)).to_pylist() == [5]
    assert to_ids("users", [2**64 - 1, 1]).to_pylist() == [2**64 - 1, 1]
    assert to_ids("users", []).to_pylist() == []


TEXTS = st.lists(st.text("0123456789-.", max_size=4), unique=True)


@given(TEXTS, st.lists(st.integers(-30, 30), unique=True), TEXTS)
def test_text_is_found_as_it_is_written(names: list[str], numbers: list[int], asked: list[str]):
    for known in (pa.array(names, pa.large_string()), pa.array(numbers, pa.int64())):
        written = list(map(str, known.to_pylist()))
        found = Index(known).find(to_ids("items", asked))
        assert found.tolist() == [written.index(text) if text in written else -1 for text in asked]


@pytest.mark.parametrize(
    "values",
    [5.5, None, [1.5], [float("nan")], [None], ["a", None], [True], [b"a"], ["a", 1], [[1]], {"a": 1}, object()],
)
def test_what_is_no_id_is_refused(values):
    with pytest.raises(ValueError, match=r"^users: found .*, allowed: ids as in the log, integers or strings$"):
        to_ids("users", values)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.string(), pa.large_string(), pa.float64()])
def test_ids_get_back_the_type_of_the_frame(kind):
    assert cast_like(pa.array([1, 2]), type_name(kind)).type == kind


def test_other_types_come_back_as_they_are_in_the_log():
    assert type_name(pa.dictionary(pa.int8(), pa.string())) is None
    assert cast_like(pa.array(["a"]), None).to_pylist() == ["a"]
    assert cast_like(pa.array(["a"]), "int64").to_pylist() == ["a"]
