"""The sampled losses over sharded rows in Triton: the kernels of one process, which read stored ids (own_draws.py)."""

from __future__ import annotations

from torch import Tensor

from cce_kernels.sampled import tuning
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.per_token_forward import launch_per_token_forward
from cce_kernels.sampled.kernels.shared_forward import launch_shared_forward
from cce_kernels.sampled.kernels.state import SampledOutputs, Upstream, WeightGradient, copy_pays
from cce_kernels.sampled.triton_impl import accumulate


def narrow(call: SampledCall) -> SampledCall:
    """The call of all tokens, hidden [P, M, D], with a copy of the rows in hidden's dtype where that is cheaper."""
    # P times the tokens of a process draw, a P-th of it from its rows.
    shared = call.group_tokens > 1
    if shared and copy_pays(call.weight, call.hidden, call.num_groups * call.num_negatives):
        return call._replace(weight=call.weight.to(call.hidden.dtype))
    return call


def write_sums(call: SampledCall, base: Tensor, total: Tensor, left: Tensor, mean: Tensor) -> None:
    """Write the results [M] and [M, D] of `cce_kernels.sharded.merge.Partial`; all are contiguous."""
    outputs = SampledOutputs(total, None, mean, base, left, total)
    if call.group_tokens > 1:
        tiles, _ = tuning.shared_tiles(mean.device, mean.dtype, mean.shape[1], call.group_tokens)
        launch_shared_forward(call, outputs, 0.0, tiles)
    else:
        per_token, _ = tuning.per_token_tiles(mean.shape[1])
        launch_per_token_forward(call, outputs, 0.0, per_token)


def add_gradient(
    call: SampledCall, shift: Tensor, pull: Tensor, grad: Tensor, d_weight: Tensor, d_bias: Tensor | None
) -> None:
    """Add the gradient of the own rows to fp32 tensors; `grad` is [M] or a scalar for all tokens."""
    accumulate(call, Upstream(shift, pull, grad), WeightGradient(d_weight, d_bias, None))
