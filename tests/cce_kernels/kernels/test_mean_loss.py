"""The mean in one launch against the mean in torch."""

import pytest
import torch
from kernel_cases import DEVICES
from rounding import UNIT

from cce_kernels.reduction import reduce_loss


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tokens", [1, 300, 20_000])
@pytest.mark.parametrize("share_ignored", [0.0, 0.3, 1.0])
def test_the_mean_is_that_of_torch(device: str, tokens: int, share_ignored: float) -> None:
    pytest.importorskip("triton")
    from cce_kernels.kernels.mean_loss import reduce_in_one_launch

    generator = torch.Generator().manual_seed(tokens)
    targets = torch.randint(0, 9, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < share_ignored] = -7
    loss = torch.rand(tokens, generator=generator).where(targets != -7, 0.0).to(device)
    mean, count = reduce_in_one_launch(loss, targets.to(device), -7, "mean")
    expected, divisor = reduce_loss(loss, targets.to(device), -7, "mean")
    assert torch.equal(count, divisor)
    # Either adds up 20,000 losses in blocks and trees: no more than 20 roundings of any number.
    torch.testing.assert_close(mean, expected, rtol=40 * UNIT[torch.float32], atol=0)
    loss[0] = torch.nan
    assert reduce_in_one_launch(loss, targets.to(device), -7, "mean")[0].isnan()
