"""Counter-based random words and the ids drawn from them."""

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import draw_negatives, sampled_linear_cross_entropy
from cce_kernels.sampled.draws import MASK32, philox_4x32, scaled_draws


def words(key, *counters):
    return [int(word) for word in philox_4x32(torch.tensor(key), *(torch.tensor(c) for c in counters))]


def test_known_answers():
    """The published test vectors of Random123 (kat_vectors, philox4x32 with 10 rounds)."""
    assert words(0, 0, 0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(-1, *(MASK32,) * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    key = 0x299F31D0_A4093822
    expected = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert words(key, 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344) == expected


def test_draws_depend_on_each_counter_alone():
    seed, step, rows = torch.tensor(3), torch.tensor(4), torch.arange(5)
    draws = scaled_draws(seed, step, rows, 7, 1000)
    assert draws.shape == (5, 7)
    assert torch.equal(draws[2:3], scaled_draws(seed, step, rows[2:3], 7, 1000))
    assert torch.equal(draws[:, :4], scaled_draws(seed, step, rows, 4, 1000))
    for other in (scaled_draws(seed + 1, step, rows, 7, 1000), scaled_draws(seed, step + 1, rows, 7, 1000)):
        assert not (draws == other).any()


def test_draws_stay_in_bounds_up_to_the_largest_catalogue():
    bound = 2**31 - 1
    draws = scaled_draws(torch.tensor(1), torch.tensor(0), torch.arange(1000), 50, bound) >> 32
    assert 0 <= draws.min() < bound // 1000
    assert bound - bound // 1000 < draws.max() < bound
    assert abs(draws.double().mean() / bound - 0.5) < 0.01
    assert (scaled_draws(torch.tensor(1), torch.tensor(0), torch.arange(9), 5, 1) >> 32 == 0).all()


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
def test_a_row_offset_on_the_device_draws_as_a_number_does(sharing):
    options = {"num_negatives": 6, "seed": 5, "sharing": sharing}
    offset = torch.tensor([0])
    for number in (0, 5, 64, 131):
        offset.fill_(number)  # what a CUDA graph reads when it is replayed
        expected = draw_negatives(150, 90, row_offset=number, **options)
        assert torch.equal(draw_negatives(150, 90, row_offset=offset, **options), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_loss_takes_a_row_offset_on_the_device(device, impl, sharing, deterministic):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).to(device).requires_grad_() for n in (11, 20))
    targets = torch.randint(0, 20, (11,), generator=generator).to(device)
    options = {"num_negatives": 5, "seed": 5, "sharing": sharing, "impl": impl, "deterministic": deterministic}
    options |= {"tile_tokens": 8} if sharing == "tile" else {}

    def run(offset):
        loss = sampled_linear_cross_entropy(hidden, weight, targets, row_offset=offset, **options)
        return loss, *torch.autograd.grad(loss, (hidden, weight))

    for ours, expected in zip(run(torch.tensor([13], device=device)), run(13), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0 if deterministic else 1e-6, atol=0 if deterministic else 1e-7)
