"""What the public functions call where their table is sharded; arguments are checked and prepared there."""

from functools import partial

from torch import Tensor

from cce_kernels.reduction import reduce_weighted
from cce_kernels.shard import Shard
from cce_kernels.sharded.autograd import run_sharded, sum_over_processes
from cce_kernels.sharded.full import ShardedFull
from cce_kernels.sharded.sampled import SampledOptions, ShardedSampled


def full(
    shard: Shard, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str,
    ignore_index: int, softcap: float | None, temperature: float, filter_eps: float | None, use_triton: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Reduced loss and log-sum-exp [M] of hidden [M, D] and targets [M] over sharded rows."""
    loss = ShardedFull(shard, targets, ignore_index, softcap, temperature, filter_eps, use_triton)
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


def weighted(
    shard: Shard, loss: Tensor, targets: Tensor, ignore_index: int, reduction: str, token_weights: Tensor | None,
    item_weights: Tensor | None,
) -> Tensor:  # fmt: skip
    """`reduction.reduce_weighted` of the losses [M] of the own tokens, together with those of the other processes."""
    return reduce_weighted(
        loss, targets, ignore_index, reduction, token_weights, item_weights, partial(sum_over_processes, shard)
    )
