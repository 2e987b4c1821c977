"""What the backward of the full loss is given for each token: from gradients of losses and of log-sum-exps.

With g_m the upstream gradient of the loss and e_m that of the log-sum-exp, and o_m = 1 - p_mt:

    dL/ds_mj = (g_m + e_m) p_mj for j != t,      dL/ds_mt = e_m - (g_m + e_m) o_m = -pull_m

so that `dH_m = (g_m + e_m) d_m + e_m w_t`, with d_m that of the loss alone. A temperature divides g_m and e_m, and a
softcap multiplies what belongs to the target by its slope there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks


class Upstream(NamedTuple):
    """All in fp32. A scalar `grad` is left out of `pull`."""

    grad: Tensor  # [M], or a scalar where all tokens share it: g_m + e_m
    pull: Tensor  # [M]
    own: Tensor | None  # [M]: e_m, None where nothing depends on the log-sum-exp
    rows: Tensor | None  # [M, D]: rows of the targets as products see them; None as `own`


def upstream(call: FullCall, grad: Tensor, grad_lse: Tensor | None, lse2: Tensor, others: Tensor) -> Upstream:
    """Prepare a backward from `lse2` and `others` of the forward, o_m times the slope of the cap, fp32 [M]."""
    if call.temperature != 1.0:
        grad, grad_lse = grad / call.temperature, None if grad_lse is None else grad_lse / call.temperature
    # Whatever arrives for a token that does not count (its lse2 is infinite), it must not make a NaN.
    if grad_lse is None:
        if grad.dim() == 0:
            return Upstream(grad, others, None, None)
        grad = torch.where(lse2.isinf(), 0.0, grad)
        return Upstream(grad, others * grad, None, None)
    rows, slope = _targets(call)
    own = torch.where(lse2.isinf(), 0.0, grad_lse * slope)
    grad = torch.where(lse2.isinf(), 0.0, grad + grad_lse)
    return Upstream(grad, others * grad - own, own, rows)


def _targets(call: FullCall) -> tuple[Tensor, Tensor | float]:
    """Rows of the targets as products see them, fp32 [M, D], and the slopes of the cap at their scores, [M] or 1."""
    _, _, safe = masks(call.targets, call.ignore_index, call.weight.shape[0])
    rows = call.weight[safe].to(call.hidden.dtype).float()
    if call.softcap is None:
        return rows, 1.0
    scores = (call.hidden.float() * rows).sum(1)
    if call.bias is not None:
        scores += call.bias[safe]
    return rows, 1.0 - (scores / call.softcap).tanh().square()
