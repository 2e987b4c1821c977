"""Ranking with all scores at once against sorting, in Triton's interpreter or on the GPU."""

import pytest
import torch

from rec_eval import Catalogue, top_k
from rec_eval.ranking.at_once import rank_at_once
from rec_eval.ranking.seen import SeenItems

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(rows, spread, seed):
    """Integer vectors: products are exact in float32, and with a narrow spread ties are many."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (rows, 3), generator=generator).float().to(DEVICE)


LONG = [(300, 7, 2000), (300, 7, 2), (300, 40, 2000), (300, 40, 2)]


@pytest.mark.parametrize(("items", "k", "spread"), [*LONG, (9, 5, 3), (9, 9, 1), (6, 10, 50), (1, 1, 5)])
@pytest.mark.parametrize("small", [False, True], ids=["one tile", "many tiles"])
def test_agrees_with_sorting(oracle, items, k, spread, small, monkeypatch):
    monkeypatch.setattr("rec_eval.ranking.at_once._TILE_SCORES", 2 * items)  # two users at a time
    if small:
        for name, value in (("_BLOCK", 4), ("_BLOCKS", 8), ("_KEPT", 2), ("_KEYS", 32)):
            monkeypatch.setattr(f"rec_eval.ranking.kernels.select.{name}", value)
    queries, table = vectors(3, spread, 0), vectors(items, spread, 1)
    bias = torch.zeros(items, device=DEVICE)
    bias[items // 2] = -torch.inf if items > 1 else 0.0
    seen = [[], [0, items - 1, 0], list(range(items))]  # the last user has seen everything
    held = SeenItems(torch.tensor([0, 0, 3, 3 + items]), torch.tensor([*seen[1], *seen[2]]), 3, items)
    got = rank_at_once(queries, Catalogue(table, bias), k, held)
    scores = (queries @ table.T + bias).tolist()
    orders = [oracle.ranking(row, set(own)) for row, own in zip(scores, seen, strict=True)]
    pairs = zip(scores, orders, strict=True)
    if k > 32 and any(len(order) > k and row[order[k - 1]] == row[order[k]] for row, order in pairs):
        assert got is None  # equal scores end a list
        return
    for user, (row, order) in enumerate(zip(scores, orders, strict=True)):
        expected = (order + [-1] * k)[:k]
        assert got.ids[user].tolist() == expected
        assert got.scores[user].tolist() == [row[item] if item >= 0 else -float("inf") for item in expected]


def test_scores_that_may_overflow_are_left_to_others():
    nothing = SeenItems(None, None, 1, 4)
    queries = torch.full((1, 3), 1e20, device=DEVICE)
    assert rank_at_once(queries, Catalogue(vectors(4, 9, 0) * 1e20), 2, nothing) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_queries_that_are_no_numbers_are_refused(value):
    queries, table = torch.full((1, 3), value, device=DEVICE), vectors(4, 9, 0)
    with pytest.raises(ValueError, match="queries holds NaN or infinite values"):
        rank_at_once(queries, Catalogue(table), 2, SeenItems(None, None, 1, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("spread", [1, 2000])
def test_the_choice_of_implementation_changes_no_list(spread):
    queries, table = vectors(50, spread, 2), vectors(5000, spread, 3)
    plain, chosen = (top_k(queries, table, 100, impl=impl) for impl in ("reference", "auto"))
    assert torch.equal(plain.ids, chosen.ids)
    assert torch.equal(plain.scores, chosen.scores)
