"""The demo keeps its promises."""

import numpy as np

from rec_data.sequences.batches import SequenceStore
from rec_data.sources import demo
from rec_data.sources.fetch import fetch_log
from rec_data.splits.split import split_log


def ndcg(scores, store):
    """NDCG@10 of the store's targets; scores(history) gives one per item, seen items are left out."""
    found = []
    for row, target in enumerate(store.targets.tolist()):
        history = store.items[store.offsets[row] : store.offsets[row + 1]].numpy()
        ranked = scores(history).copy()
        ranked[history] = -1.0
        rank = int((ranked > ranked[target]).sum())
        found.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return float(np.mean(found))


def test_order_beats_popularity_by_far(tmp_path):
    fetch_log("demo", tmp_path / "log.parquet", root=tmp_path, seed=0)
    (tmp_path / "split").mkdir()
    summary = split_log(tmp_path / "log.parquet", tmp_path / "split")
    assert 300 <= summary["test"]["users"] <= 1000
    assert summary["test"]["unreachable_targets"] == 0
    train, test = (SequenceStore.open(tmp_path / "split" / "sequences" / f"{name}.arrow") for name in ("train", "test"))
    items, V = train.items.numpy(), summary["items"]
    popularity = np.bincount(items, minlength=V) / len(items)
    follows = np.zeros((V, V))
    inside = np.ones(len(items) - 1, dtype=bool)
    inside[train.offsets[1:-1].numpy() - 1] = False
    np.add.at(follows, (items[:-1][inside], items[1:][inside]), 1.0)
    by_popularity = ndcg(lambda history: popularity, test)
    by_order = ndcg(lambda history: follows[history[-1]] + popularity, test)
    assert by_popularity < 0.06
    assert by_order > 8 * by_popularity


def test_shape():
    shape = demo.DemoShape(users=50, genres=3, items_per_genre=40, mean_length=10, longest=30)
    log = demo.generate(1, shape)
    assert {len(column) for column in log.values()} == {len(log["user_id"])}
    lengths = np.unique(log["user_id"], return_counts=True)[1]
    assert len(lengths) == 50
    assert lengths.min() >= 5
    assert lengths.max() <= 30
    assert log["timestamp"].min() >= demo.START
    pairs = log["user_id"] * 10**6 + log["item_id"]
    assert len(np.unique(pairs)) == len(pairs)


def test_longest_user_takes_every_item():
    shape = demo.DemoShape(users=4, genres=2, items_per_genre=4, favourites=1, mean_length=100, shortest=8, longest=8)
    items = demo.generate(3, shape)["item_id"]
    assert np.unique(items, return_counts=True)[1].tolist() == [4] * 8


def test_seeds_differ():
    shape = demo.DemoShape(users=50)
    first, *others = (demo.generate(seed, shape)["item_id"][:100] for seed in (0, 1, 2))
    assert not any(np.array_equal(first, other) for other in others)
