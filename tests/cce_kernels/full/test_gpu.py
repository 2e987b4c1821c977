"""The full loss on a GPU: determinism, memory, graphs, torch.compile, big tables."""

import pytest
import torch
from full_cases import Case, backward, errors, linear_cross_entropy_triton, make, score_size, truth_of
from rounding import allowed_error

from cce_kernels import linear_cross_entropy

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16


def run(inputs):
    loss, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias)
    return backward(loss, inputs)


@pytest.mark.parametrize("tokens", [700, 5000])
def test_two_runs_are_bitwise_equal(tokens):
    inputs = make(Case(tokens, 9001, 128, BF16, torch.float32, bias=True, scores="peaked"), "cuda")
    inputs.targets[: tokens // 2] = 5
    for first, second in zip(run(inputs), run(inputs), strict=True):
        assert torch.equal(first, second)


def test_peak_memory_is_bounded():
    tokens, items, dim = 32768, 100_001, 256
    inputs = make(Case(tokens, items, dim, BF16, torch.float32), "cuda")
    run(inputs)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run(inputs)
    torch.cuda.synchronize()
    outputs = sum(x.numel() * x.element_size() for x in results[1:])
    accumulator = items * dim * 4
    extra = torch.cuda.max_memory_allocated() - before - outputs
    # dW is the accumulator; beyond it dH in fp32 before its factor, and a few numbers a token. Forward's 16-bit copy of
    # the table is gone before there is a dW.
    assert extra <= 0.1 * accumulator + tokens * (dim * 4 + 32)


def test_no_recompilation_when_the_number_of_tokens_changes():
    from cce_kernels.full.kernels.backward import full_backward_kernel
    from cce_kernels.full.kernels.forward import full_forward_kernel

    def compiled():
        return sum(
            len(x.device_caches[torch.cuda.current_device()][0]) for x in (full_forward_kernel, full_backward_kernel)
        )

    inputs = make(Case(4096, 70_001, 64, BF16), "cuda")
    counts = []
    for tokens in (4096, 4095, 3008, 4001, 3333):
        part = type(inputs)(
            inputs.hidden[:tokens].detach().requires_grad_(), inputs.weight, inputs.targets[:tokens], None,
            inputs.grad[:tokens], True,
        )  # fmt: skip
        run(part)
        counts.append(compiled())
    assert counts[0] == counts[-1]


def test_cuda_graph_replays_with_new_values():
    case = Case(300, 2000, 64, BF16, torch.float32)
    inputs, other = make(case, "cuda"), make(case, "cuda", seed=1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = run(inputs)
    with torch.no_grad():
        for mine, new in (
            (inputs.hidden, other.hidden),
            (inputs.weight, other.weight),
            (inputs.targets, other.targets),
        ):
            mine.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, run(other), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_torch_compile_gives_the_same_without_breaks_or_recompilation():
    torch._dynamo.reset()
    seen = []

    def backend(graph, example):
        seen.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def step(hidden, weight, targets):
        return linear_cross_entropy_triton(hidden * 1.0, weight, targets)[0].sum()

    for tokens in (200, 201, 333):
        inputs = make(Case(tokens, 500, 64, torch.float32), "cuda")
        got = torch.autograd.grad(step(inputs.hidden, inputs.weight, inputs.targets), inputs.leaves())
        loss = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)[0].sum()
        for mine, expected in zip(got, torch.autograd.grad(loss, inputs.leaves()), strict=True):
            torch.testing.assert_close(mine, expected)
    assert len(seen) == 1


def test_operators_pass_torch_opcheck():
    from cce_kernels.full.call import FullCall
    from cce_kernels.full.triton_impl import full_triton

    inputs = make(Case(40, 60, 64, torch.float32, bias=True), "cuda")
    torch.library.opcheck(
        full_triton.forward_operator,
        tuple(FullCall(inputs.hidden, inputs.weight, inputs.bias, inputs.targets, -100, None, 1.0, None, True)),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_gradients_accumulate_over_micro_batches():
    inputs = make(Case(256, 999, 128, torch.float32), "cuda")
    whole = run(inputs)[2]
    parts = torch.zeros_like(whole)
    for piece in (slice(0, 100), slice(100, 256)):
        loss, _ = linear_cross_entropy_triton(inputs.hidden[piece], inputs.weight, inputs.targets[piece])
        parts += torch.autograd.grad(loss.sum() * inputs.grad[0], inputs.weight)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_table_past_two_to_the_31_elements():
    items, dim, tokens = 9_400_000, 256, 64
    weight = torch.randn(items, dim, device="cuda", dtype=BF16).requires_grad_()
    hidden = (torch.randn(tokens, dim, device="cuda") * 0.1).to(BF16).requires_grad_()
    targets = torch.randint(items - 1000, items, (tokens,), device="cuda")
    loss, lse = linear_cross_entropy_triton(hidden, weight, targets)
    dhidden, dweight = torch.autograd.grad(loss.sum(), (hidden, weight))
    scores = torch.cat([hidden.float() @ part.float().T for part in weight.detach().split(500_000)], 1)
    torch.testing.assert_close(lse, scores.logsumexp(1), rtol=1e-5, atol=1e-4)
    tail = slice(items - 1000, items)
    p = (scores[:, tail] - lse[:, None]).exp()
    p[torch.arange(tokens, device="cuda"), targets - tail.start] -= 1
    error = (dweight[tail].float() - p.T @ hidden.float()).norm() / (p.T @ hidden.float()).norm()
    assert error < 3e-3
    assert dhidden.isfinite().all()


@pytest.mark.parametrize("scores", ["flat", "peaked", "fitted"])
def test_gradients_of_a_large_batch_match_float64(scores):
    inputs = make(Case(4096, 50_000, 128, BF16, scores=scores), "cuda")
    found = errors(run(inputs), truth_of(inputs))
    allowed = allowed_error(score_size(inputs), 128, 50_000, "cuda", BF16)
    assert max(found[name] for name in ("dhidden", "dweight")) <= allowed, found


def test_agrees_with_cut_cross_entropy():
    peer = pytest.importorskip("cut_cross_entropy")
    inputs = make(Case(1000, 5000, 128, BF16), "cuda")
    total = peer.linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, filter_eps=None, reduction="sum", ignore_index=-100
    )
    theirs = torch.autograd.grad(total, inputs.leaves())
    ours = run(inputs)
    torch.testing.assert_close(ours[0].sum(), total.detach().float(), rtol=1e-3, atol=0)
    for mine, other in zip(ours[1:], theirs, strict=True):
        assert ((mine - other * inputs.grad[0]).float().norm() / mine.float().norm()) < 5e-2


def test_agrees_with_liger():
    peer = pytest.importorskip("liger_kernel.transformers")
    inputs = make(Case(1000, 5000, 128, BF16), "cuda")
    total = peer.LigerFusedLinearCrossEntropyLoss(reduction="sum")(inputs.weight, inputs.hidden, inputs.targets)
    theirs = torch.autograd.grad(total, inputs.leaves())
    ours = run(inputs)
    torch.testing.assert_close(ours[0].sum(), total.detach().float(), rtol=1e-3, atol=0)
    for mine, other in zip(ours[1:], theirs, strict=True):
        assert ((mine - other * inputs.grad[0]).float().norm() / mine.float().norm()) < 2e-2


def test_autocast_uses_its_dtype():
    inputs = make(Case(300, 501, 64, torch.float32), "cuda")
    with torch.autocast("cuda", dtype=BF16):
        loss = linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets)
    gradients = torch.autograd.grad(loss, inputs.leaves())
    assert loss.dtype == gradients[0].dtype == gradients[1].dtype == torch.float32
    assert torch.equal(loss, linear_cross_entropy(inputs.hidden.to(BF16), inputs.weight, inputs.targets))


def test_compile_with_inductor():
    torch._dynamo.reset()
    inputs = make(Case(300, 501, 64, BF16, bias=True), "cuda")

    def loss_of(hidden, weight, bias):
        return linear_cross_entropy(hidden * 2, weight, inputs.targets, bias=bias)

    got = torch.autograd.grad(torch.compile(loss_of, fullgraph=True)(*inputs.leaves()), inputs.leaves())
    torch.testing.assert_close(got, torch.autograd.grad(loss_of(*inputs.leaves()), inputs.leaves()))
