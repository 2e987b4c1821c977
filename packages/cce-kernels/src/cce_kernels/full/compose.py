"""Variants of the full loss that are sums of it, its log-sum-exp and mean scores, which bring their own gradients.

With a set of targets S_m

    L_m = lse_m - mean_{t in S_m} s_mt = (lse_m - s_mu) + s_mu - mean_{t in S_m} s_mt,   u the first of them

With smoothing `a` the target distribution is `(1 - a) [j = t] + a / V`, so

    L_m = lse_m - (1 - a) s_mt - a mean_j s_mj = (1 - a) (lse_m - s_mt) + a (lse_m - h_m . mean_j w_j - mean_j b_j)
"""

import torch
from torch import Tensor

from cce_kernels.dtypes import as_multiplied, sum_dtype
from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks, reduce_loss, reduce_weighted


def compose(
    loss: Tensor, lse: Tensor, call: FullCall, reduction: str, sets: Tensor | None, smoothing: float,
    token_weights: Tensor | None, item_weights: Tensor | None,
) -> Tensor:  # fmt: skip
    """The reduced loss, from the losses and log-sum-exps [M] of a call; with `sets` [M, K] of its first targets."""
    if sets is not None:
        loss = average_targets(loss, call, sets)
    if smoothing:
        loss = smooth(loss, lse, call, smoothing)
    if token_weights is None and item_weights is None:
        return reduce_loss(loss, call.targets, call.ignore_index, reduction)[0]
    return reduce_weighted(loss, call.targets, call.ignore_index, reduction, token_weights, item_weights)


def first_targets(targets: Tensor, ignore_index: int, num_items: int) -> Tensor:
    """The first of the targets [M, K] of each token, int64 [M]: `ignore_index` without any, the wrong one if one is."""
    counted = targets != ignore_index
    wrong = counted & ((targets < 0) | (targets >= num_items))
    chosen = torch.where(wrong.any(1), wrong.int().argmax(1), counted.int().argmax(1))
    return targets.gather(1, chosen[:, None]).squeeze(1)


def average_targets(loss: Tensor, call: FullCall, targets: Tensor) -> Tensor:
    """Losses [M] of sets of targets [M, K], from those of the first ones; gathers the rows of all, [M, K, D]."""
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    valid, _, safe = masks(targets, call.ignore_index, call.weight.shape[0])
    rows = call.weight[safe]
    # Scores of rows as the products see them; the gradient goes to the rows as they are.
    rounded = as_multiplied(rows.detach(), call.hidden).to(dtype)
    rows = rows.to(dtype)
    rows = rows + (rounded - rows.detach())
    scores = torch.einsum("md,mkd->mk", call.hidden.to(dtype), rows)
    if call.bias is not None:
        scores = scores + call.bias[safe].to(dtype)
    share = valid / valid.sum(1, keepdim=True).clamp(min=1)
    first = torch.nn.functional.one_hot(valid.int().argmax(1), targets.shape[1])
    apart = (scores * (first * valid - share).to(dtype)).sum(1) / call.temperature
    return torch.where(valid.any(1), loss + apart, loss)


def smooth(loss: Tensor, lse: Tensor, call: FullCall, smoothing: float) -> Tensor:
    """Losses [M] with label smoothing, from plain ones [M] and log-sum-exps [M]; 0 at tokens that do not count."""
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    mean = call.hidden.to(dtype) @ call.weight.mean(0, dtype=dtype)
    if call.bias is not None:
        mean = mean + call.bias.mean(dtype=dtype)
    mean = mean / call.temperature
    valid, _, _ = masks(call.targets, call.ignore_index, call.weight.shape[0])
    return torch.where(valid, (1 - smoothing) * loss + smoothing * (lse - mean), loss)
