"""Variants of the full loss that are sums of it, its log-sum-exp and mean scores, each with its own gradient.

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
