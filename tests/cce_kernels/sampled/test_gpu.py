"""The sampled kernels on a GPU, in full: `pytest -m gpu tests/cce_kernels`."""

import math

import pytest
import torch
from kernel_cases import pairwise
from sampled_cases import Case, assert_exact, assert_kernels_draw_the_ids_of_the_reference, make, ours, relative_error

from cce_kernels import Popularity, SampledLinearCrossEntropy, draw_negatives, sampled_linear_cross_entropy
from cce_kernels.sampled import tuning

pytestmark = pytest.mark.gpu
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16

SWEEP = pairwise(
    {
        "dim": [16, 64, 100, 128, 256, 320, 512],
        "dtype": [FP32, BF16, FP16],
        "weight_dtype": [FP32, BF16],
        "sampler": ["uniform", "popularity", "constant", "in_batch", "mixed"],
        "objective": ["softmax", "bce", "gbce"],
        "sharing": ["none", "tile", "batch"],
        "tokens": [1, 130],
        "items": [97, 1013],
        "negatives": [1, 70],
        "bias": [False, True],
        "deterministic": [False, True],
        "sparse": [False, True],
        "targets": ["random", "same", "ignored", "fitted"],
        "offset": [0, 7],
        "ignore_index": [-100, 0],
    },
    Case(),
)


@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_pairs_of_options_match_float64(case):
    assert_exact(case, "cuda")


@pytest.mark.parametrize("sharing", ["tile", "batch"])
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("dim", [16, 64, 100, 128, 256, 320, 512])
@pytest.mark.parametrize("size", [1, 12, 27])
def test_fewer_tokens_or_negatives_than_a_tile_holds(size, dim, dtype, sharing):
    for tokens, negatives in ((size, 70), (130, size), (size, size)):
        case = Case(tokens=tokens, items=97, dim=dim, negatives=negatives, dtype=dtype, sharing=sharing)
        assert_exact(case, "cuda")


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("dim", [16, 64, 256])
@pytest.mark.parametrize("peak", [30.0, 75.0, 260.0])
def test_peaked_scores_match_float64(peak, dim, sharing):
    """Scores up to 130 and more, 300 and 1,000."""
    assert_exact(Case(tokens=130, items=97, negatives=70, dim=dim, peak=peak, sharing=sharing), "cuda")


@pytest.mark.parametrize("tile", [1, 5, 16, 64, 200])
def test_any_tile_of_tokens(tile):
    assert_exact(Case(sharing="tile", tile=tile, offset=3, tokens=333, items=501, dim=64, dtype=BF16), "cuda")


def test_catalogue_of_two():
    assert_exact(Case(items=2, tokens=50), "cuda")


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in_batch", "mixed"])
def test_kernels_draw_the_ids_of_the_reference(sharing, sampler):
    assert_kernels_draw_the_ids_of_the_reference("cuda", sharing, sampler, 333, 301)


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
def test_deterministic_is_bitwise_equal(sharing):
    case = Case(tokens=3000, items=400, dim=128, negatives=100, dtype=BF16, sharing=sharing, deterministic=True)
    tensors, options = make(case, "cuda")
    first = ours(case, tensors, options, "triton")
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, ours(case, tensors, options, "triton"), strict=True))


def test_several_chunks_of_the_sort(monkeypatch):
    monkeypatch.setattr(tuning, "SCRATCH_BYTES", 40_000)
    for sharing in ("none", "tile"):
        assert_exact(Case(tokens=700, items=51, dim=64, sharing=sharing, deterministic=True), "cuda")


@pytest.mark.parametrize("piece", [4, 256])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_items_drawn_more_often_than_one_program_adds_up(monkeypatch, piece, dtype):
    monkeypatch.setattr(tuning, "PIECE", piece)
    # 60 items, 500 x 300 draws: 2,500 of an item on average.
    assert_exact(Case(tokens=500, items=60, dim=128, negatives=300, dtype=dtype, sampler="popularity"), "cuda")


def test_out_of_range_target_is_nan_and_nothing_else():
    case = Case(tokens=40, items=50, dim=64, bias=False)
    for sharing in ("none", "tile"):
        case.sharing = sharing
        tensors, options = make(case, "cuda")
        clean = ours(case, tensors, options, "triton")
        tensors["targets"][3], tensors["targets"][7] = 50, -7
        loss, d_hidden, d_weight = ours(case, tensors, options, "triton")
        bad = torch.zeros(40, dtype=torch.bool, device="cuda")
        bad[[3, 7]] = True
        assert torch.equal(loss.isnan(), bad)
        assert torch.equal(d_hidden.isnan().all(1), bad)
        assert torch.equal(loss[~bad], clean[0][~bad])
        assert not d_weight.isnan().any()


@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_compile_without_breaks_or_recompilation(sharing):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    weight = torch.randn(501, 64, device="cuda", requires_grad=True)
    seed = torch.tensor(1, device="cuda")

    def loss_of(hidden, targets, step):
        return sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=20, seed=seed, step=step, sharing=sharing
        )

    compiled = torch.compile(loss_of, backend=counter, fullgraph=True, dynamic=True)
    for tokens in (100, 173, 260):
        hidden = torch.randn(tokens, 64, device="cuda", requires_grad=True)
        targets = torch.randint(0, 501, (tokens,), device="cuda")
        step = torch.tensor(tokens, device="cuda")
        a, b = compiled(hidden, targets, step), loss_of(hidden, targets, step)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(*(torch.autograd.grad(x, hidden)[0] for x in (a, b)))
    assert counter.frame_count == 1


def test_compile_with_inductor():
    torch._dynamo.reset()
    module = SampledLinearCrossEntropy(20, 3, sharing="tile")
    weight = torch.randn(501, 64, device="cuda", requires_grad=True)
    hidden = torch.randn(100, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, 501, (100,), device="cuda")
    compiled = torch.compile(module, fullgraph=True)
    got = torch.autograd.grad(compiled(hidden * 2, weight, targets, step=4), (hidden, weight))
    expected = torch.autograd.grad(module(hidden * 2, weight, targets, step=4), (hidden, weight))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_cuda_graph_follows_the_step_and_the_row_offset(sharing):
    weight = torch.randn(501, 64, device="cuda", requires_grad=True)
    hidden = torch.randn(100, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, 501, (100,), device="cuda")
    seed, step, offset = (torch.tensor(value, device="cuda") for value in (3, 0, 0))

    def run():
        loss = sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=20, seed=seed, step=step, row_offset=offset, sharing=sharing,
            deterministic=True,
        )  # fmt: skip
        return loss, *torch.autograd.grad(loss, (hidden, weight))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    seen = []
    for number, first_row in ((5, 0), (6, 0), (6, 77)):
        step.fill_(number)
        offset.fill_(first_row)
        graph.replay()
        seen.append(captured[0].item())
        assert all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))
    assert len(set(seen)) == 3


def test_autocast_uses_its_dtype():
    weight = torch.randn(501, 64, device="cuda", requires_grad=True)
    hidden = torch.randn(100, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, 501, (100,), device="cuda")
    options = {"num_negatives": 20, "seed": 1, "sharing": "tile"}
    with torch.autocast("cuda", dtype=BF16):
        loss = sampled_linear_cross_entropy(hidden, weight, targets, **options)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == FP32
    assert torch.equal(loss, sampled_linear_cross_entropy(hidden.to(BF16), weight, targets, **options))


def test_addresses_beyond_32_bits():
    """Drawn from the last 2,000 of 9.4 M items: all that is read and written lies past 2^31 elements."""
    items, dim, tail, negatives = 9_400_000, 256, 2000, 50
    first = items - tail
    weight = torch.empty(items, dim, device="cuda", dtype=BF16).normal_().requires_grad_()
    hidden = (torch.randn(64, dim, device="cuda") / 16).to(BF16).requires_grad_()
    targets = torch.randint(items - 1000, items, (64,), device="cuda")
    counts = torch.zeros(items)
    counts[first:] = 1
    options = {"num_negatives": negatives, "sampler": Popularity(counts)}
    for sharing in ("none", "tile"):
        loss = sampled_linear_cross_entropy(hidden, weight, targets, seed=1, sharing=sharing, **options)
        d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
        seed = torch.tensor(1, device="cuda")
        ids = draw_negatives(64, items, seed=seed, sharing=sharing, **options) - first  # [64, 50]
        assert (ids >= 0).all()
        rows = weight.detach()[first:].double().requires_grad_()
        wide = hidden.detach().double().requires_grad_()
        local = targets - first
        kept = ids != local[:, None]
        positive = (wide * rows[local]).sum(1)
        scores = (wide[:, None] * rows[ids]).sum(2) + math.log(tail - 1) - kept.sum(1, keepdim=True).double().log()
        scores = scores.masked_fill(~kept, -math.inf)
        expected = (torch.cat((positive[:, None], scores), 1).logsumexp(1) - positive).mean()
        d_wide, d_rows = torch.autograd.grad(expected, (wide, rows))
        assert abs(loss.item() / expected.item() - 1) < 1e-5
        assert relative_error(d_hidden, d_wide) < 3.5e-3
        assert relative_error(d_weight[first:], d_rows) < 3.5e-3
        assert not d_weight[:first].any()
        del d_weight  # 4.8 GB, before the next one


@pytest.mark.parametrize(("sharing", "deterministic"), [("none", False), ("tile", False), ("tile", True)])
def test_extra_memory_is_bounded(sharing, deterministic):
    tokens, items, dim, negatives = 32768, 100_000, 128, 255
    weight = torch.randn(items, dim, device="cuda", requires_grad=True)
    hidden = torch.randn(tokens, dim, device="cuda", dtype=BF16, requires_grad=True)
    targets = torch.randint(0, items, (tokens,), device="cuda")

    def run():
        loss = sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=negatives, seed=1, sharing=sharing, deterministic=deterministic
        )
        return torch.autograd.grad(loss, (hidden, weight))

    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated() - before
    # dW, which is the accumulator, and a tenth of it; the copy of the table in 16 bits; dH in fp32 before its factor.
    allowed = 1.1 * items * dim * 4 + items * dim * 2 + tokens * dim * 4 + (64 << 20)
    assert peak <= allowed, f"{peak / 2**20:.0f} MiB > {allowed / 2**20:.0f} MiB"


@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_no_kernel_is_compiled_anew_when_the_number_of_tokens_changes(sharing):
    from cce_kernels.sampled.kernels import (
        per_token_backward,
        per_token_forward,
        shared_backward,
        shared_forward,
        sum_by_item,
    )

    kernels = (
        shared_forward.shared_forward_kernel, shared_backward.shared_backward_kernel,
        per_token_forward.per_token_forward_kernel, per_token_backward.per_token_backward_kernel,
        per_token_backward.later_draws_kernel, sum_by_item.draw_keys_kernel, sum_by_item.mark_bounds_kernel,
    )  # fmt: skip
    weight = torch.randn(70_001, 64, device="cuda", requires_grad=True)
    counts = []
    for tokens in (4096, 4095, 3008, 1, 3333):
        hidden = torch.randn(tokens, 64, device="cuda", dtype=BF16, requires_grad=True)
        targets = torch.randint(0, 70_001, (tokens,), device="cuda")
        loss = sampled_linear_cross_entropy(hidden, weight, targets, num_negatives=33, seed=1, sharing=sharing)
        torch.autograd.grad(loss, (hidden, weight))
        counts.append(sum(len(kernel.device_caches[torch.cuda.current_device()][0]) for kernel in kernels))
    assert counts[0] == counts[-1], counts


@pytest.mark.parametrize(("sharing", "tile"), [("none", 64), ("tile", 48), ("batch", 64)])
def test_micro_batches_accumulate_to_one_batch(sharing, tile):
    weight = torch.randn(501, 64, device="cuda", requires_grad=True)
    hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, 501, (300,), device="cuda")
    options = {"num_negatives": 20, "seed": 1, "sharing": sharing, "tile_tokens": tile, "reduction": "sum"}
    whole = sampled_linear_cross_entropy(hidden, weight, targets, **options)
    parts = sum(
        sampled_linear_cross_entropy(hidden[i:j], weight, targets[i:j], row_offset=i, **options)
        for i, j in ((0, 100), (100, 231), (231, 300))
    )
    torch.testing.assert_close(parts, whole)
    for mine, other in zip(
        torch.autograd.grad(parts, (hidden, weight)), torch.autograd.grad(whole, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
