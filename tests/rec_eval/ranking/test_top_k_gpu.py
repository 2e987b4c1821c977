"""Top-k and ranks on a CUDA device."""

import pytest
import torch

from rec_eval import popularity_top_k, target_ranks, top_k

pytestmark = pytest.mark.gpu


def problem(users, items, dim, dtype, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    queries = torch.randn(users, dim, generator=generator, device="cuda").to(dtype)
    table = torch.randn(items, dim, generator=generator, device="cuda").to(dtype)
    lengths = torch.randint(0, 60, (users,), generator=generator, device="cuda")
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    seen = torch.randint(0, items, (int(offsets[-1]),), generator=generator, device="cuda")
    return queries, table, offsets, seen


def exact(queries, table, offsets, seen):
    scores = queries.double() @ table.double().T
    rows = torch.repeat_interleave(torch.arange(len(queries), device="cuda"), offsets.diff())
    scores[rows, seen] = -torch.inf
    return scores


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("items", "dim", "k"), [(20_000, 64, 100), (50_001, 256, 10), (9_999, 320, 100), (7, 16, 10)])
def test_scores_are_the_largest(impl, dtype, items, dim, k):
    queries, table, offsets, seen = problem(300, items, dim, dtype)
    scores = exact(queries, table, offsets, seen)
    got = top_k(queries, table, k, seen_offsets=offsets, seen_items=seen, impl=impl, user_tile=128)
    filled = got.ids >= 0
    assert torch.equal(filled.sum(1), torch.isfinite(scores).sum(1).clamp(max=k))
    own = scores.gather(1, got.ids.clamp(min=0))
    best = scores.topk(min(k, items), dim=1).values
    # Sums of D exact products in float32, truncated by the tensor cores.
    size = float((queries.abs().double() @ table.abs().double().T).max())
    bound = dim * torch.finfo(torch.float32).eps * size
    assert torch.allclose(got.scores[filled].double(), own[filled], rtol=0, atol=bound)
    width = best.shape[1]
    assert torch.allclose(
        got.scores[:, :width][filled[:, :width]].double(), best[filled[:, :width]], rtol=0, atol=bound
    )
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in got.ids.cpu())


@pytest.mark.parametrize("spread", [0, 1, 4])
def test_ties_go_to_the_lower_id_in_both(spread):
    generator = torch.Generator("cuda").manual_seed(3)
    queries = torch.randint(-spread, spread + 1, (500, 32), generator=generator, device="cuda").bfloat16()
    table = torch.randint(-spread, spread + 1, (30_000, 32), generator=generator, device="cuda").bfloat16()
    fused = top_k(queries, table, 50, impl="triton")
    plain = top_k(queries, table, 50, impl="reference", item_tile=7000)
    whole = (queries.float() @ table.float().T).double() * 2**20 - torch.arange(30_000, device="cuda")
    assert torch.equal(plain.ids, whole.topk(50).indices)
    assert torch.equal(fused.ids, plain.ids)
    assert torch.equal(fused.scores, plain.scores)


def test_a_catalogue_in_order_of_score_still_fits():
    queries = torch.ones(256, 16, device="cuda").bfloat16()
    table = torch.linspace(0, 1, 200_000, device="cuda")[:, None].expand(-1, 16).contiguous().bfloat16()
    bias = torch.arange(200_000, device="cuda") * 2.0**-10
    got = top_k(queries, table, 20, bias=bias)
    assert torch.equal(got.ids, top_k(queries, table, 20, bias=bias, impl="reference").ids)


def test_memory_stays_below_the_formula():
    queries, table, offsets, seen = problem(4096, 500_000, 64, torch.bfloat16)
    for impl, tiles in (("triton", {}), ("reference", {"user_tile": 1024, "item_tile": 32_768})):
        k, users = 100, tiles.get("user_tile", 4096)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        top_k(queries, table, k, seen_offsets=offsets, seen_items=seen, impl=impl, **tiles)
        used = torch.cuda.max_memory_allocated() - before - 4096 * k * 12
        most_seen = int(offsets[-1])
        if impl == "triton":
            limit = 64 * max(users * 1024, 500_000) + 48 * most_seen
        else:
            limit = users * (20 * tiles["item_tile"] + 48 * 3 * k) + 32 * most_seen
        assert used < limit + (64 << 20)  # and the workspace of the matrix library


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_agree_with_the_cpu(dtype):
    generator = torch.Generator().manual_seed(4)
    queries = torch.randint(-3, 4, (700, 24), generator=generator).to(dtype)
    table = torch.randint(-3, 4, (5000, 24), generator=generator).to(dtype)
    targets = torch.randint(0, 5000, (700,), generator=generator)
    seen = {"seen_offsets": torch.arange(0, 700 * 9 + 1, 9), "seen_items": torch.randint(0, 5000, (6300,))}
    here = target_ranks(queries, table, targets, **seen)
    there = target_ranks(queries.cuda(), table.cuda(), targets.cuda(), item_tile=1777, user_tile=99, **seen)
    assert torch.equal(here, there.cpu())


def test_a_collapsed_model_does_not_look_perfect_on_cuda():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(300, 50, generator=generator).cuda()
    table = torch.randn(1, 50, generator=generator).expand(1000, -1).contiguous().cuda()
    targets = torch.randint(0, 1000, (300,), generator=generator)
    assert target_ranks(queries, table, targets, item_tile=128).tolist() == (targets + 1).tolist()


def test_popularity_agrees_with_the_cpu():
    counts = torch.randint(0, 50, (3000,))
    offsets, seen = torch.arange(0, 400 * 5 + 1, 5), torch.randint(0, 3000, (2000,))
    here = popularity_top_k(counts, 20, seen_offsets=offsets, seen_items=seen)
    there = popularity_top_k(counts.cuda(), 20, seen_offsets=offsets, seen_items=seen)
    assert torch.equal(here.ids, there.ids.cpu())
