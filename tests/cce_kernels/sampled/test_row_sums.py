"""`deterministic=True` of the reference: the numbers of the other way, the same bits in every run."""

import pytest
import torch
from torch.testing import assert_close

from cce_kernels import BCE, InBatch, Popularity, sampled_linear_cross_entropy
from cce_kernels.sampled import reference as reference_sampled
from cce_kernels.sampled.row_sums import sums_by_id

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
M, V, D = 300, 40, 8


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_sums_of_equal_ids(most, device):
    generator = torch.Generator().manual_seed(most)
    ids = torch.randint(0, 1000 // most, (1000,), generator=generator) * 3 - 5
    rows = torch.randn(1000, 4, generator=generator, dtype=torch.float64)
    before = ids.clone(), rows.clone()
    unique, sums = sums_by_id(ids.to(device), rows.to(device))
    expected, inverse = ids.unique(return_inverse=True)
    assert torch.equal(unique.cpu(), expected)
    assert_close(sums.cpu(), rows.new_zeros(expected.numel(), 4).index_add_(0, inverse, rows))
    assert torch.equal(before[0], ids)
    assert torch.equal(before[1], rows)


def test_nothing_sums_up_to_nothing():
    ids, sums = sums_by_id(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    assert ids.shape == (0,)
    assert sums.shape == (0, 3)


def test_rows_are_added_in_pairs():
    """1e8 swallows a 1 that is added to it alone: in pairs, the second half of the ones outlives the first row."""
    rows = torch.tensor([1e8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    _, sums = sums_by_id(torch.zeros(8, dtype=torch.int64), rows)
    in_pairs = ((rows[0] + rows[1]) + (rows[2] + rows[3])) + ((rows[4] + rows[5]) + (rows[6] + rows[7]))
    assert torch.equal(sums[0], in_pairs)


def gradients(device, sharing, sparse, deterministic, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_() for shape in ((M, D), (V, D), (V,))
    )
    targets = torch.randint(0, V // 2, (M,), generator=generator)
    targets[::7] = -100
    loss = sampled_linear_cross_entropy(
        hidden, weight, targets.to(device), bias=bias, num_negatives=50, seed=1, sharing=sharing,
        sampler=Popularity(torch.arange(V) ** 3), deterministic=deterministic, sparse_grad=sparse, impl="reference",
    )  # fmt: skip
    found = torch.autograd.grad(loss, (hidden, weight, bias))
    assert all(x.is_sparse for x in found[1:]) == sparse
    return [x.coalesce() if x.is_sparse else x for x in found]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_numbers_are_those_of_the_other_way(device, sharing, sparse, monkeypatch):
    monkeypatch.setattr(reference_sampled, "_CHUNK_ELEMENTS", 100 * 64)  # several chunks
    ours, theirs = (gradients(device, sharing, sparse, way, torch.float64) for way in (True, False))
    assert_close(ours, theirs)
    if sparse:
        assert torch.equal(ours[1].indices(), theirs[1].indices())


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_bits_are_the_same_in_every_run(device, sharing, sparse):
    first = gradients(device, sharing, sparse, True)
    for _ in range(5):
        for mine, other in zip(first, gradients(device, sharing, sparse, True), strict=True):
            assert torch.equal(mine.to_dense(), other.to_dense())


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_repeated_ids_never_meet_in_an_unordered_sum(deterministic, sparse, monkeypatch):
    """A CPU adds in order anyway; on CUDA `index_add_` does not, so with the option it must see every id once."""
    seen = []
    add = torch.Tensor.index_add_

    def watched(self, dim, index, source, **options):
        seen.append(index.unique().numel() == index.numel())
        return add(self, dim, index, source, **options)

    monkeypatch.setattr(torch.Tensor, "index_add_", watched)
    gradients("cpu", "none", sparse, deterministic)
    assert all(seen) == deterministic


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_row_touched_is_that_row_of_the_gradient(device, dtype):
    """The sums of rows and bias come from one matrix [R, D + 1], and with R = 1 any stride passes as contiguous."""
    hidden = torch.randn(4, 64, device=device, dtype=dtype)
    weight, bias = torch.randn(3, 64, device=device, dtype=dtype), torch.zeros(3, device=device, dtype=dtype)
    targets = torch.ones(4, dtype=torch.int64, device=device)
    leaves = weight.requires_grad_(), bias.requires_grad_()

    def gradients(sparse):
        loss = sampled_linear_cross_entropy(
            hidden, weight, targets, bias=bias, num_negatives=2, seed=1, sampler=InBatch(), objective=BCE(),
            deterministic=True, sparse_grad=sparse, impl="reference",
        )  # fmt: skip
        return torch.autograd.grad(loss, leaves)

    expected = gradients(sparse=False)
    for _ in range(20):
        for sparse, dense in zip(gradients(sparse=True), expected, strict=True):
            assert sparse._nnz() == 1
            assert sparse._values().stride() == torch.empty(sparse._values().shape).stride()
            assert torch.equal(sparse.to_dense(), dense)
            assert torch.equal(torch.zeros_like(dense).add_(sparse), dense)
