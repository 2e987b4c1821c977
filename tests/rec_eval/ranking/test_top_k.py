import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_eval import Catalogue, popularity_top_k, target_ranks, top_k
from rec_eval.ranking import scores as module


def ragged(rows):
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    return offsets, torch.tensor([item for row in rows for item in row], dtype=torch.int32)


def integers(rows, dim, spread, generator):
    """Integer vectors, whose products are exact in float32."""
    return torch.randint(-spread, spread + 1, (rows, dim), generator=generator).float()


@st.composite
def problems(draw):
    """Small integer vectors: products are exact and ties are many."""
    users, items, dim = draw(st.integers(0, 7)), draw(st.integers(1, 200)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0, 1, 3, 50]))
    queries, table = integers(users, dim, spread, generator), integers(items, dim, spread, generator)
    bias = None
    if draw(st.booleans()):
        bias = torch.randint(-2, 3, (items,), generator=generator).float()
        bias[torch.rand(items, generator=generator) < 0.2] = -torch.inf
    if draw(st.booleans()):  # ascending scores: every tile beats all before it
        table = table[(table @ torch.ones(dim)).argsort()]
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    seen = []
    for _ in range(users):
        count = int(share * items * torch.rand(1, generator=generator)) if share < 1 else items
        seen.append(
            torch.randint(0, items, (count,), generator=generator).tolist() if share < 1 else list(range(items))
        )
    tiles = {"item_tile": draw(st.integers(1, items + 3)), "user_tile": draw(st.integers(1, users + 2))}
    return queries, table, bias, seen, draw(st.sampled_from([1, 2, 5, 40, items, items + 7])), tiles


@given(problems())
@settings(max_examples=150, deadline=None)
def test_top_k_and_ranks_agree_with_sorting(oracle, problem):
    queries, items, bias, seen, k, tiles = problem
    offsets, seen_items = ragged(seen)
    got = top_k(queries, items, k, bias=bias, seen_offsets=offsets, seen_items=seen_items, **tiles)
    scores = queries @ items.T + (0 if bias is None else bias)
    assert got.ids.shape == got.scores.shape == (len(queries), k)
    assert got.ids.dtype == torch.int64
    assert got.scores.dtype == torch.float32
    targets = torch.arange(len(queries)) * 31 % len(items)
    ranks = target_ranks(
        queries, items, targets, bias=bias, seen_offsets=offsets, seen_items=seen_items, **tiles
    ).tolist()
    for user, row in enumerate(scores.tolist()):
        order = oracle.ranking(row, set(seen[user]))
        expected = (order + [-1] * k)[:k]
        assert got.ids[user].tolist() == expected
        assert got.scores[user].tolist() == [row[item] if item >= 0 else -float("inf") for item in expected]
        target = int(targets[user])
        assert ranks[user] == (order.index(target) + 1 if target in order else len(items) + 1)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_popularity_agrees_with_sorting(oracle, problem):
    queries, items, _, seen, k, _ = problem
    counts = items.abs().sum(1).long()
    offsets, seen_items = ragged(seen)
    got = popularity_top_k(counts, k, seen_offsets=offsets, seen_items=seen_items)
    for user in range(len(queries)):
        expected = (oracle.ranking(counts.tolist(), set(seen[user])) + [-1] * k)[:k]
        assert got.ids[user].tolist() == expected
        assert got.scores[user].tolist() == [float(counts[i]) if i >= 0 else -float("inf") for i in expected]


def test_popularity_orders_counts_that_float32_cannot_tell_apart():
    counts = torch.tensor([2**24, 2**24 + 1])
    assert popularity_top_k(counts, 2, num_users=1).ids.tolist() == [[1, 0]]


def test_hand_worked():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 4.0], [3.0, 9.0]])
    got = top_k(queries, items, 3, seen_offsets=torch.tensor([0, 1, 4]), seen_items=torch.tensor([2, 3, 3, 0]))
    assert got.ids.tolist() == [[1, 3, 0], [1, 2, -1]]
    assert got.scores.tolist() == [[3.0, 3.0, 1.0], [5.0, 4.0, -float("inf")]]
    ranks = target_ranks(queries, items, torch.tensor([0, 3]), seen_offsets=torch.tensor([0, 1, 4]),
                         seen_items=torch.tensor([2, 3, 3, 0]))  # fmt: skip
    assert ranks.tolist() == [3, 5]  # the second user's target is among the seen items: V + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_products_are_summed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(9, 64, generator=generator).to(dtype)
    items = torch.randn(500, 64, generator=generator).to(dtype)
    truth = queries.double() @ items.double().T
    # A sum of 64 exact products in float32 is off by at most 64 roundings of a partial sum.
    bound = 64 * torch.finfo(torch.float32).eps / 2 * float((queries.abs().double() @ items.abs().double().T).max())
    got = top_k(queries, items, 20, item_tile=64)
    assert torch.allclose(got.scores.double(), truth.gather(1, got.ids), rtol=0, atol=bound)
    assert torch.allclose(got.scores.double(), truth.topk(20).values, rtol=0, atol=bound)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_collapsed_model_does_not_look_perfect(scale):
    """All items equal: only the tie rule ranks them, whatever the last bit of a product is."""
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(300, 50, generator=generator) * scale
    items = torch.randn(1, 50, generator=generator).expand(1000, -1).contiguous()
    targets = torch.randint(0, 1000, (300,), generator=generator)
    for tiles in ({"item_tile": 128, "user_tile": 77}, {"item_tile": 33, "user_tile": 300}, {}):
        assert target_ranks(queries, items, targets, **tiles).tolist() == (targets + 1).tolist()


@pytest.mark.parametrize("num_users", [1, 3, 100])
@pytest.mark.parametrize("dim", [8, 16, 50, 64])
def test_equal_items_rank_by_id_however_many_there_are(num_users, dim):
    """Products round the last few columns otherwise if their number is no multiple of a kernel's block."""
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(num_users, dim, generator=generator)
    for num_items in (2, 5, 7, 9, 17, 31, 33, 127, 257, 1001):
        items = torch.randn(1, dim, generator=generator).expand(num_items, -1).contiguous()
        targets = torch.randint(0, num_items, (num_users,), generator=generator)
        for bias in (None, torch.zeros(num_items)):
            for tiles in ({}, {"item_tile": 5}):
                found = target_ranks(queries, items, targets, bias=bias, **tiles)
                assert found.tolist() == (targets + 1).tolist()


def test_rank_is_the_place_in_the_list():
    generator = torch.Generator().manual_seed(2)
    queries, items = integers(50, 32, 50, generator), integers(777, 32, 50, generator)
    lists = top_k(queries, items, 777, item_tile=100).ids
    targets = torch.randint(0, 777, (50,), generator=generator)
    places = (lists == targets[:, None]).int().argmax(1) + 1
    assert target_ranks(queries, items, targets, item_tile=100).tolist() == places.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_catalogue_is_looked_at_once_and_ranks_as_its_table(monkeypatch, dtype):
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(30, 16, generator=generator).to(dtype)
    items = torch.randn(200, 16, generator=generator).to(dtype)
    bias = torch.randn(200, generator=generator)
    targets = torch.randint(0, 200, (30,), generator=generator)
    looked = []
    look = module._largest
    monkeypatch.setattr(module, "_largest", lambda name, values: looked.append(name) or look(name, values))
    catalogue = Catalogue(items, bias)
    for part in (slice(0, 10), slice(10, 30)):
        ranked = top_k(queries[part], catalogue, 7)
        ranks = target_ranks(queries[part], catalogue, targets[part])
        assert torch.equal(ranked.ids, top_k(queries[part], items, 7, bias=bias).ids)
        assert torch.equal(ranks, target_ranks(queries[part], items, targets[part], bias=bias))
    assert looked.count("items") == 1 + 4  # of the catalogue once; each call with a bare table looks by itself
    assert looked.count("queries") == 8


def test_a_catalogue_of_some_items_ranks_these_alone():
    generator = torch.Generator().manual_seed(4)
    queries, items = torch.randn(9, 16, generator=generator), torch.randn(50, 16, generator=generator)
    allowed = torch.rand(50, generator=generator) < 0.3
    for bias in (None, torch.randn(50, generator=generator)):
        whole = Catalogue(items, bias)
        closed = (torch.zeros(50) if bias is None else bias).masked_fill(~allowed, -torch.inf)
        expected = top_k(queries, items, 30, bias=closed)
        found = top_k(queries, whole.among(allowed), 30)
        assert torch.equal(found.ids, expected.ids)
        assert (found.ids >= 0).sum(dim=1).tolist() == [int(allowed.sum())] * 9
        assert int(top_k(queries, whole, 50).ids.min()) == 0  # the catalogue itself is as before


def test_a_catalogue_still_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="items holds NaN"):
        Catalogue(torch.full((4, 3), torch.nan))
    catalogue = Catalogue(torch.full((4, 3), 1e30))
    for rank in (lambda queries: top_k(queries, catalogue, 1), lambda q: target_ranks(q, catalogue, torch.tensor([0]))):
        with pytest.raises(ValueError, match="queries holds NaN"):
            rank(torch.full((1, 3), torch.nan))
        with pytest.raises(ValueError, match="overflow float32"):
            rank(torch.full((1, 3), 1e30))
    with pytest.raises(ValueError, match="bias must be None with a Catalogue"):
        top_k(torch.zeros(1, 3), catalogue, 1, bias=torch.zeros(4))


ONE = {"queries": torch.zeros(2, 3), "items": torch.zeros(4, 3), "k": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"item_tile": 0}, "item_tile must be at least 1"),
        ({"user_tile": -1}, "user_tile must be at least 1"),
        ({"queries": torch.zeros(2, 4)}, r"queries must be \[users, dim\]"),
        ({"items": torch.zeros(3)}, r"items must be \[items, dim\]"),
        ({"items": torch.zeros(0, 3)}, "items must hold at least one item"),
        ({"items": torch.zeros(4, 3, dtype=torch.float64)}, "share one of float32"),
        ({"queries": torch.full((2, 3), torch.nan)}, "queries holds NaN"),
        ({"items": torch.full((4, 3), torch.inf)}, "items holds NaN"),
        ({"bias": torch.zeros(3)}, r"bias must be \[4\]"),
        ({"bias": torch.tensor([0.0, torch.nan, 0, 0])}, "bias holds NaN"),
        ({"queries": torch.full((2, 3), 1e30), "items": torch.full((4, 3), 1e30)}, "overflow float32"),
        ({"seen_offsets": torch.zeros(3, dtype=torch.int64)}, "must be given together"),
        ({"seen_offsets": torch.zeros(2).long(), "seen_items": torch.zeros(0).long()}, "users \\+ 1 = 3"),
        ({"seen_offsets": torch.tensor([0, 2, 1]), "seen_items": torch.zeros(1).long()}, "must ascend from 0"),
        ({"seen_offsets": torch.tensor([0, 1, 1]), "seen_items": torch.tensor([4])}, r"lie in \[0, 4\)"),
        ({"seen_offsets": torch.tensor([0, 1, 1]), "seen_items": torch.tensor([1.0])}, "one row of integers"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        top_k(**{**ONE, **change})


@pytest.mark.parametrize(
    ("targets", "message"),
    [([0, 4], r"targets must lie in \[0, 4\)"), ([0, -1], "targets must lie"), ([0], r"targets must be \[2\]")],
)
def test_targets_outside_the_catalogue_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        target_ranks(ONE["queries"], ONE["items"], torch.tensor(targets))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (torch.tensor([1.0]), {"num_users": 1}, "counts must be one row of integers"),
        (torch.tensor([-1]), {"num_users": 1}, "not be negative"),
        (torch.tensor([1]), {}, "num_users is None"),
    ],
)
def test_bad_counts_are_named(counts, options, message):
    with pytest.raises(ValueError, match=message):
        popularity_top_k(counts, 1, **options)


def test_tiles_change_nothing():
    generator = torch.Generator().manual_seed(11)
    queries, items = integers(70, 48, 50, generator), integers(3000, 48, 50, generator)
    truth = ((queries.double() @ items.double().T) * 3000 - torch.arange(3000)).topk(120).indices
    for item_tile in (40, 77, 121, 1000, 3000, 5000):
        for user_tile in (9, 70):
            got = top_k(queries, items, 120, item_tile=item_tile, user_tile=user_tile)
            assert torch.equal(got.ids, truth), (item_tile, user_tile)


def test_a_target_never_ranks_above_itself(monkeypatch: pytest.MonkeyPatch):
    """Its own score may be rounded otherwise than its column of the product: that depends on the CPU."""
    module = importlib.import_module("rec_eval.ranking.target_ranks")
    exact = module._own_scores
    monkeypatch.setattr(module, "_own_scores", lambda *arguments: exact(*arguments) - 1e-3)
    queries, items = torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0], [1.0], [2.0]])
    assert target_ranks(queries, items, torch.tensor([0, 1])).tolist() == [1, 3]
