"""What a training loop does with the losses: value checks, sparse gradients in an optimiser, fp16 in a CUDA graph."""

import pytest
import torch

from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
ITEMS, DIM = 500, 32


def tensors(device, dtype=torch.float32, tokens=60):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ITEMS, DIM, generator=generator).to(device).requires_grad_()
    hidden = (torch.randn(tokens, DIM, generator=generator) / DIM**0.5).to(device, dtype).requires_grad_()
    return hidden, weight, torch.randint(0, ITEMS, (tokens,), generator=generator).to(device)


def full(hidden, weight, targets, **options):
    return linear_cross_entropy(hidden, weight, targets, **options)


def sampled(hidden, weight, targets, **options):
    options = {"num_negatives": 7, "seed": 1, "sharing": "tile", **options}
    return sampled_linear_cross_entropy(hidden, weight, targets, **options)


@pytest.mark.parametrize("loss_of", [full, sampled])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_check_names_the_argument_and_lets_good_values_pass(device, loss_of):
    hidden, weight, targets = tensors(device)
    assert torch.equal(loss_of(hidden, weight, targets, check=True), loss_of(hidden, weight, targets))
    wrong = targets.clone()
    wrong[3] = ITEMS
    with pytest.raises(ValueError, match="targets: found an id out of range"):
        loss_of(hidden, weight, wrong, check=True)
    for name, bad in (("hidden", hidden), ("weight", weight)):
        broken = {"hidden": hidden, "weight": weight, name: bad.detach().clone()}
        broken[name][2, 1] = float("nan")
        with pytest.raises(ValueError, match=f"{name}: found NaN or infinity"):
            loss_of(**broken, targets=targets, check=True)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_sparse_adam_moves_the_rows_touched_and_no_others(device):
    hidden, weight, targets = tensors(device)
    before = weight.detach().clone()
    dense = torch.autograd.grad(sampled(hidden, weight, targets), weight)[0]
    touched = dense.abs().sum(1) > 0
    optimizer = torch.optim.SparseAdam([weight], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sampled(hidden, weight, targets, sparse_grad=True).backward()
        assert weight.grad.is_sparse
        optimizer.step()
    moved = (weight.detach() != before).any(1)
    assert torch.equal(moved, touched)
    assert 0 < int(moved.sum()) < ITEMS


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_sparse_gradient_steps_like_a_dense_one_where_the_optimiser_takes_it(device):
    results = []
    for sparse in (False, True):
        hidden, weight, targets = tensors(device)
        optimizer = torch.optim.SGD([weight], lr=0.5)
        for step in range(2):
            optimizer.zero_grad()
            sampled(hidden, weight, targets, step=step, sparse_grad=sparse).backward()
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda leaves: torch.optim.SGD(leaves, lr=0.1, weight_decay=0.1),
        lambda leaves: torch.optim.Adam(leaves, lr=0.1, weight_decay=0.1),
        lambda leaves: torch.optim.AdamW(leaves, lr=0.1, weight_decay=0.1),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_torch_refuses_weight_decay_on_a_sparse_gradient(device, optimizer_of):
    hidden, weight, targets = tensors(device)
    before = weight.detach().clone()
    optimizer = optimizer_of([weight])
    sampled(hidden, weight, targets, sparse_grad=True).backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(weight.detach(), before)


@pytest.mark.gpu
@pytest.mark.parametrize("loss_of", [full, sampled])
def test_fp16_in_a_cuda_graph_with_a_scaled_loss(loss_of):
    hidden, weight, targets = tensors("cuda", torch.float16, 300)
    scale = torch.tensor(1024.0, device="cuda")
    options = {} if loss_of is full else {"seed": torch.tensor(1, device="cuda"), "deterministic": True}
    if loss_of is sampled:
        options["step"] = torch.tensor(0, device="cuda")

    def run():
        loss = loss_of(hidden, weight, targets, **options)
        return loss, *torch.autograd.grad(loss * scale, (hidden, weight))

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
    for factor in (1024.0, 4096.0):  # what a gradient scaler changes between steps
        scale.fill_(factor)
        with torch.no_grad():
            hidden.mul_(1.25)
        graph.replay()
        torch.cuda.synchronize()
        seen.append(captured[0].item())
        for mine, expected in zip(captured, run(), strict=True):
            assert mine.isfinite().all()
            torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-5)
    assert seen[0] != seen[1]
