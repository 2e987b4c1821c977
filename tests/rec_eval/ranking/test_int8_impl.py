"""Ranking through an int8 copy of the item vectors gives the lists of the vectors themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_eval import Catalogue, top_k
from rec_eval.ranking import int8_impl
from rec_eval.ranking.int8_impl import LEAST_DIM, Int8Table, rank_users
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import TopK, decode_keys


def ranked(queries, items, k, bias=None, offsets=None, seen=None) -> TopK | None:
    held = SeenItems(offsets, seen, len(queries), len(items))
    keys = rank_users(queries, Int8Table(items), k, bias, held, (0, len(queries)))
    return None if keys is None else decode_keys(keys)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is faster, for small catalogues too."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(int8_impl, "LEAST_ITEMS", 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_users=st.integers(1, 5),
    num_items=st.sampled_from([1, 7, 129, 1000, 4001]),
    dim=st.sampled_from([LEAST_DIM, 9, 32, 100]),
    k=st.sampled_from([1, 10, 200]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    allowed=st.sampled_from([None, 0.02, 0.5]),
    first_tile=st.sampled_from([128, 1 << 16]),
)
def test_lists_are_those_of_float64(seed, num_users, num_items, dim, k, spread, allowed, first_tile):
    """Norms of items that differ by up to e^16, seen items and few allowed ones; small tiles as well as one."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(num_items, dim, generator=generator)
    items *= torch.exp(spread * (torch.rand(num_items, 1, generator=generator) - 0.5) * 2)
    queries = torch.randn(num_users, dim, generator=generator)
    offsets = torch.arange(num_users + 1) * 20
    seen = torch.randint(0, num_items, (num_users * 20,), generator=generator)
    bias = None
    if allowed is not None:
        bias = torch.where(torch.rand(num_items, generator=generator) < allowed, 0.0, -torch.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_impl, "FIRST_TILE", first_tile)
        found = ranked(queries, items, k, bias, offsets, seen)
    exact = queries.double() @ items.double().T
    exact += 0 if bias is None else bias
    for user, row in enumerate(exact):
        row[seen[user * 20 : user * 20 + 20]] = -torch.inf
    best = exact.topk(min(k, num_items), dim=1).values
    assert found is not None
    places = torch.arange(k).expand(num_users, -1) < (best > -torch.inf).sum(dim=1, keepdim=True)
    assert torch.equal(found.ids >= 0, places)
    at = exact.gather(1, found.ids.clamp_min(0))
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in found.ids)
    # A sum of D products in float32 is off by at most D * eps * |q| |w|, as is the score it is compared to.
    bound = 2 * dim * torch.finfo(torch.float32).eps * queries.norm(dim=1).max() * items.norm(dim=1).max()
    torch.testing.assert_close(at[places], best[places[:, : best.shape[1]]], rtol=0, atol=float(bound))
    assert torch.all(found.scores[:, 1:] <= found.scores[:, :-1])


def test_equal_items_have_equal_scores_in_every_tile_and_in_every_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8_impl, "FIRST_TILE", 128)
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(50, 16, generator=generator).repeat(20, 1)  # 20 copies of each
    queries = torch.randn(9, 16, generator=generator)
    together = ranked(queries, items, 30)
    first = (queries @ items[:50].T).topk(2, dim=1).indices
    expected = torch.cat([first[:, :1] + 50 * torch.arange(20), first[:, 1:] + 50 * torch.arange(10)], dim=1)
    assert torch.equal(together.ids, expected)
    alone = [ranked(queries[row : row + 1], items, 30) for row in range(9)]
    assert torch.equal(torch.cat([one.ids for one in alone]), together.ids)
    assert torch.equal(torch.cat([one.scores for one in alone]), together.scores)


def test_a_catalogue_with_an_int8_copy_ranks_as_without(anywhere):
    generator = torch.Generator().manual_seed(0)
    items, queries = torch.randn(3000, 32, generator=generator), torch.randn(8, 32, generator=generator)
    small = Catalogue(items, int8=True)
    assert small.int8 is not None
    few = torch.rand(3000, generator=generator) < 0.1
    for catalogue, plain in ((small, Catalogue(items)), (small.among(few), Catalogue(items).among(few))):
        assert torch.equal(top_k(queries, catalogue, 20).ids, top_k(queries, plain, 20).ids)
    assert Catalogue(torch.randn(10, LEAST_DIM - 1), int8=True).int8 is None


def test_items_that_are_all_alike_are_left_to_float32(anywhere):
    items, queries = torch.ones(3000, 8), torch.ones(2, 8)
    assert ranked(queries, items, 5) is None
    assert top_k(queries, Catalogue(items, int8=True), 5).ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    zero = ranked(torch.zeros(1, 8), torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), 3)
    assert zero.ids.tolist() == [[0, 1, 2]]
