"""Synthetic logs have the published shape."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from rec_data.errors import DataError
from rec_data.sources import synthetic

PUBLISHED = {  # users, items, interactions after filtering
    "movielens_20m": (138_078, 15_405, 12_180_742),
    "beauty": (673_952, 176_450, 5_027_587),
    "zvuk": (370_528, 893_022, 243_411_750),
    "megamarket": (350_267, 1_661_327, 114_846_280),
    "30music": (44_381, 909_487, 25_639_260),
    "gowalla": (84_766, 308_962, 4_660_733),
    "completejourney": (2_458, 28_165, 1_401_647),
}


def test_shapes_are_the_published_ones():
    for name, (users, items, interactions) in PUBLISHED.items():
        shape = synthetic.SHAPES[name]
        assert (shape.users, shape.items, shape.interactions) == (users, items, interactions)
        assert not {"users", "items", "interactions"} & set(shape.estimated)
    assert synthetic.SHAPES.keys() == PUBLISHED.keys()
    assert [synthetic.SHAPES[name].days for name in ("beauty", "zvuk", "megamarket")] == [8_300, 120, 120]


@pytest.mark.parametrize(("name", "median"), [("zvuk", 146), ("megamarket", 85)])
def test_the_past_of_a_user_has_the_median_that_the_authors_print(name, median):
    (users, _, times), *more = synthetic.chunks(synthetic.parse(f"{name}@0.01")[1], seed=0)
    assert not more
    boundary = np.partition(times, int(0.9 * len(times)))[int(0.9 * len(times))]
    pasts = np.unique(users[times < boundary], return_counts=True)[1]
    assert np.median(pasts) == pytest.approx(median, rel=0.05)  # the deviation of 3,500 users' median is 2 %


@pytest.mark.parametrize("name", list(synthetic.SHAPES))
def test_lengths_fit_mean_and_median(name):
    shape = synthetic.SHAPES[name]
    lengths = synthetic.user_lengths(shape, np.random.default_rng(0))
    assert lengths.sum() == shape.interactions
    assert lengths.min() >= 3
    assert np.median(lengths) == pytest.approx(shape.median_length, rel=0.1)


@pytest.mark.parametrize("name", list(synthetic.SHAPES))
def test_popularity_has_a_long_tail(name):
    shape = synthetic.SHAPES[name]
    counts = synthetic.item_counts(shape)
    assert counts.sum() == shape.interactions
    assert counts.min() >= 5
    assert (np.diff(counts) <= 1).all()  # descending, except for rounding
    assert counts[0] <= 0.35 * shape.users
    assert counts[: shape.items // 10].sum() > 0.4 * shape.interactions


def test_log_is_sorted_whole_and_a_function_of_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 5_000)
    _, shape = synthetic.parse("movielens_20m@0.003")
    rows = synthetic.write_synthetic_log(shape, tmp_path / "a.parquet", seed=3)
    table = pq.read_table(tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups > 5
    users, items, times = (table[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
    assert rows == len(users) == shape.interactions
    assert len(np.unique(users)) == shape.users
    np.testing.assert_array_equal(np.bincount(items), synthetic.item_counts(shape))
    assert (np.diff(users) >= 0).all()
    assert (np.diff(times)[np.diff(users) == 0] >= 0).all()
    assert times.min() >= synthetic.START
    assert times.max() <= synthetic.START + shape.days * 86_400
    synthetic.write_synthetic_log(shape, tmp_path / "b.parquet", seed=3)
    synthetic.write_synthetic_log(shape, tmp_path / "c.parquet", seed=4)
    assert pq.read_table(tmp_path / "b.parquet").equals(table)
    assert not pq.read_table(tmp_path / "c.parquet").equals(table)


def test_scale():
    _, half = synthetic.parse("gowalla@0.5")
    whole = synthetic.SHAPES["gowalla"]
    assert (half.users, half.items) == (whole.users // 2, whole.items // 2)
    assert half.interactions / half.users == pytest.approx(whole.interactions / whole.users)
    with pytest.raises(DataError, match="scale '-1'"):
        synthetic.parse("gowalla@-1")
