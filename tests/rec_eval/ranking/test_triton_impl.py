"""The fused top-k against sorting, in Triton's interpreter or on the GPU."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_eval import top_k
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import EMPTY, decode_keys, encode_keys
from rec_eval.ranking.triton_impl import Plan, _Lists, _merge, _SeenTile, choose_tiles, make_plan, rank_users

triton = pytest.importorskip("triton")

from rec_eval.ranking.kernels.filter import Survivors, Tiles, filter_items, split_dimension  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter multiplies the bits of bfloat16
SMALL = Tiles(users=16, items=16, warps=1, stages=1)


@pytest.fixture(autouse=True, scope="module")
def plain_merge():
    """Merge with torch where kernels are interpreted: a sort there takes seconds. One test asks for the kernel."""
    patch = pytest.MonkeyPatch()
    if DEVICE == "cpu":
        patch.setattr("rec_eval.ranking.kernels.merge.LONGEST", 0)
    yield
    patch.undo()


def ragged(rows):
    return torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()]), torch.tensor(
        [item for row in rows for item in row], dtype=torch.int64
    )


def rank(queries, items, k, plan, bias=None, seen=None):
    offsets, seen_items = (None, None) if seen is None else ragged(seen)
    held = SeenItems(offsets, seen_items, len(queries), len(items))
    bias = None if bias is None else bias.to(DEVICE)
    return decode_keys(rank_users(queries.to(DEVICE), items.to(DEVICE), k, bias, held, (0, len(queries)), plan))


def check(oracle, queries, items, k, plan, bias=None, seen=None):
    """Compare with sorting; integer vectors make every product exact."""
    got = rank(queries, items, k, plan, bias, seen)
    scores = queries.float() @ items.float().T + (0 if bias is None else bias)
    for user, row in enumerate(scores.tolist()):
        order = oracle.ranking(row, set(seen[user]) if seen else set())
        expected = (order + [-1] * k)[:k]
        assert got.ids[user].tolist() == expected
        assert got.scores[user].tolist() == [row[item] if item >= 0 else -float("inf") for item in expected]


def integers(rows, dim, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (rows, dim), generator=generator).to(DTYPE)


@pytest.mark.parametrize("dim", [1, 20, 80])
@pytest.mark.parametrize("num_items", [1, 150])
def test_dimensions_and_catalogues(oracle, dim, num_items):
    plan = make_plan(num_items, 5, SMALL, capacity=32)
    check(oracle, integers(19, dim, 2, 0), integers(num_items, dim, 2, 1), 5, plan)


@given(st.integers(0, 2**31), st.sampled_from([1, 4, 30]), st.sampled_from([0, 1, 8]), st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None)
def test_ties_bias_and_seen_items(oracle, seed, k, spread, with_bias, with_seen):
    generator = torch.Generator().manual_seed(seed)
    items = 90
    bias = seen = None
    if with_bias:
        bias = torch.randint(-2, 3, (items,), generator=generator).float()
        bias[torch.rand(items, generator=generator) < 0.3] = -torch.inf
    if with_seen:
        counts = torch.randint(0, items, (7,), generator=generator).tolist()
        seen = [torch.randint(0, items, (count,), generator=generator).tolist() for count in counts]
        seen[0] = list(range(items))
    plan = make_plan(items, k, SMALL, capacity=16)
    check(oracle, integers(7, 16, spread, seed), integers(items, 16, spread, seed + 1), k, plan, bias, seen)


def test_lists_that_overflow_are_made_again(oracle):
    """Two passes; the second one leaves far more survivors than fit into the lists of some users."""
    items = integers(128, 16, 3, 0)
    items[:16] = 0
    queries = integers(20, 16, 3, 1)
    queries[3] = 0
    plan = Plan(SMALL, 1, [(0, 1), (1, 8)], 16)
    check(oracle, queries, items, 10, plan)
    check(oracle, queries, items, 10, plan, seen=[list(range(0, 120, 7))] * 20)


def test_passes_cover_the_catalogue_once_and_grow():
    for num_items, k in [(1, 1), (5, 3), (15_405, 100), (893_022, 100), (9_400_000, 10), (50_000, 5000)]:
        plan = make_plan(num_items, k, Tiles(128, 128, 8, 3))
        blocks = -(-num_items // 128)
        visits = [visit for first, last in plan.passes for visit in range(first, last)]
        assert visits == list(range(blocks))
        assert sorted(visit * plan.stride % blocks for visit in visits) == visits
        assert plan.passes[0][1] * 128 <= plan.capacity
    assert len(make_plan(9_400_000, 100, Tiles(128, 64, 8, 3)).passes) <= 12


def test_dimensions_are_covered():
    assert [split_dimension(dim) for dim in (1, 16, 64, 100, 128, 320, 512)] == [
        (16, 0), (16, 0), (64, 0), (128, 0), (128, 0), (256, 64), (512, 0),
    ]  # fmt: skip
    for dim in range(1, 600):
        parts = split_dimension(dim)
        assert sum(parts) >= dim
        assert all(part == 0 or part >= 16 for part in parts)


def test_every_survivor_is_written_once():
    queries, items = integers(16, 16, 3, 5).to(DEVICE), integers(40, 16, 3, 6).to(DEVICE)
    floor = torch.full((16,), 4.0, device=DEVICE)
    floor_ids = torch.full((16,), 20, dtype=torch.int32, device=DEVICE)
    for skip in (False, True):
        found = filter_items(queries, items, None, floor, floor_ids, (0, 3), 1, 64, SMALL, 2, skip)
        scores = queries.float() @ items.float().T
        keep = (scores > 4) | ((scores == 4) & (torch.arange(40, device=DEVICE) < 20))
        assert found.counts.tolist() == keep.sum(1).tolist()
        for user, count in enumerate(found.counts.tolist()):
            ids = found.ids[user, :count].long()
            assert sorted(ids.tolist()) == keep[user].nonzero().squeeze(1).tolist()
            assert torch.equal(found.scores[user, :count], scores[user, ids])


def test_the_merge_kernel_agrees_with_torch(monkeypatch):
    """Three users: an empty list; a full one, with seen items among the survivors; no survivors."""
    users = torch.tensor([2, 0, 1], device=DEVICE)  # the rows of these users in the seen items
    offsets, seen_items = ragged([[7, 3, 9, 30], [5], []])
    tile = _SeenTile(SeenItems(offsets, seen_items, 3, 40), (0, 3), 40, torch.device(DEVICE))
    keys = torch.full((3, 5), EMPTY, dtype=torch.int64, device=DEVICE)
    first = torch.tensor([[4.0, 1.0, 1.0, -0.0, -2.0]] * 2, device=DEVICE)
    keys[1:] = encode_keys(first, torch.tensor([[1, 2, 8, 4, 6]] * 2, device=DEVICE))
    scores = torch.tensor([[0.0, 3.0, -0.0, -5.0], [1.0, 4.0, 9.0, 0.0], [99.0] * 4], device=DEVICE)
    ids = torch.tensor([[12, 11, 10, 13], [0, 30, 3, 12], [99] * 4], dtype=torch.int32, device=DEVICE)
    found = Survivors(torch.tensor([4, 4, 0], dtype=torch.int32, device=DEVICE), scores, ids)
    lists = _Lists(keys, first[:, 0], ids[:, 0])
    plain = _merge(lists, found, 4, users, tile)
    monkeypatch.setattr("rec_eval.ranking.kernels.merge.LONGEST", 4096)
    kernel = _merge(lists, found, 4, users, tile)
    assert decode_keys(kernel.keys).ids.tolist() == [[11, 10, 12, 13, -1], [1, 0, 2, 8, 4], [1, 2, 8, 4, 6]]
    for ours, theirs in zip(kernel, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_the_public_function_takes_it():
    queries, items = integers(3, 32, 2, 7).to(DEVICE), integers(300, 32, 2, 8).to(DEVICE)
    fused = top_k(queries, items, 10, impl="triton", user_tile=2)
    plain = top_k(queries, items, 10, impl="reference")
    assert torch.equal(fused.ids, plain.ids)
    assert torch.equal(fused.scores, plain.scores)


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a device")
def test_without_a_device_or_the_interpreter_it_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="needs tensors on CUDA"):
        top_k(torch.zeros(1, 16).half(), torch.zeros(2, 16).half(), 1, impl="triton")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impl": "cuda"}, "impl must be auto, triton or reference"),
        ({"impl": "triton", "item_tile": 8}, "no item_tile"),
        ({"impl": "triton", "dtype": torch.float32}, "takes bfloat16 or float16"),
    ],
)
def test_what_it_cannot_do_is_named(options, message):
    dtype = options.pop("dtype", torch.bfloat16)
    with pytest.raises(ValueError, match=message):
        top_k(torch.zeros(1, 4, dtype=dtype), torch.zeros(2, 4, dtype=dtype), 1, **options)


@pytest.mark.parametrize(("major", "fits"), [(7, False), (8, True), (9, True)])
def test_a_gpu_before_ampere_ranks_in_plain_torch(major, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    utils = SimpleNamespace(get_device_properties=lambda _: {"max_shared_mem": 64 << 10})
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(utils=utils))
    assert (choose_tiles(64, torch.device("cuda", 0)) is not None) == fits
