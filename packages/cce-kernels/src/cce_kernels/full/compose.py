"""Variants of the full loss that are sums of it, its log-sum-exp and mean scores, which bring their own gradients.

Weights multiply the losses of tokens; a mean divides by the sum of the weights.

With smoothing `a` the target distribution is `(1 - a) [j = t] + a / V`, so

    L_m = lse_m - (1 - a) s_mt - a mean_j s_mj = (1 - a) (lse_m - s_mt) + a (lse_m - h_m . mean_j w_j - mean_j b_j)
"""

import torch
from torch import Tensor

from cce_kernels.dtypes import sum_dtype
from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks


def smooth(loss: Tensor, lse: Tensor, call: FullCall, smoothing: float) -> Tensor:
    """Losses [M] with label smoothing, from plain ones [M] and log-sum-exps [M]; 0 at tokens that do not count."""
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    mean = call.hidden.to(dtype) @ call.weight.mean(0, dtype=dtype)
    if call.bias is not None:
        mean = mean + call.bias.mean(dtype=dtype)
    mean = mean / call.temperature
    valid, _, _ = masks(call.targets, call.ignore_index, call.weight.shape[0])
    return torch.where(valid, (1 - smoothing) * loss + smoothing * (lse - mean), loss)


def reduce_weighted(
    loss: Tensor, call: FullCall, reduction: str, token_weights: Tensor | None, item_weights: Tensor | None
) -> Tensor:
    """Reduce losses [M] of tokens with weights: their own [M], those of their targets [V], or the product."""
    _, _, safe = masks(call.targets, call.ignore_index, call.weight.shape[0])
    factor = torch.ones_like(loss) if token_weights is None else token_weights.to(loss.dtype)
    if item_weights is not None:
        factor = factor * item_weights[safe].to(loss.dtype)
    counted = call.targets != call.ignore_index
    loss = torch.where(counted, loss * factor, 0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    total = torch.where(counted, factor, 0).sum()
    return loss.sum() / torch.where(total == 0, 1, total)
