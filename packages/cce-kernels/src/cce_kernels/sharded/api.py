"""What the losses of `cce_kernels.api` call where their table is sharded; arguments are checked and prepared there."""

from torch import Tensor

from cce_kernels.shard import Shard
from cce_kernels.sharded.autograd import run_sharded
from cce_kernels.sharded.full import ShardedFull
from cce_kernels.sharded.sampled import SampledOptions, ShardedSampled


def full(
    shard: Shard, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str,
    ignore_index: int, softcap: float | None, filter_eps: float | None, use_triton: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Reduced loss and log-sum-exp [M] of hidden [M, D] and targets [M] over sharded rows."""
    loss = ShardedFull(shard, targets, ignore_index, softcap, filter_eps, use_triton)
    found: tuple[Tensor, Tensor] = run_sharded(loss, reduction, hidden, weight, bias)
    return found


def sampled(
    shard: Shard, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str,
    ignore_index: int, options: SampledOptions,
) -> Tensor:  # fmt: skip
    """Reduced loss of hidden [M, D] and targets [M] over sharded rows."""
    sampling = ShardedSampled(shard, targets, ignore_index, options)
    loss: Tensor = run_sharded(sampling, reduction, hidden, weight, bias)[0]
    return loss
