"""Alias table: O(1) draws from any discrete distribution (Walker 1977), built without a Python loop.

Items below the mean weight (light) are filled up by items above it (heavy), both in order. Light item i takes its
whole deficit from the heavy item that is current when i begins; a heavy item that has given away its surplus becomes a
partly filled bucket itself, topped up by the next heavy one. With prefix sums of deficits and surpluses both
assignments are binary searches (the sweep of Huebschle-Schneider and Sanders, "Parallel weighted random sampling",
2022).
"""

import torch
from torch import Tensor

_SCALE = 1 << 32


def build_alias_table(probabilities: Tensor) -> Tensor:
    """Pack thresholds and aliases of a distribution into one int64 a bucket.

    Args:
        probabilities: float64 [V], not negative, sum 1, V < 2**31.

    Returns:
        int64 [V]: the alias in the high 32 bits, the threshold (in units of 2**-32) in the low 32. A draw takes a
        uniform bucket j and a uniform 32-bit coin: the item is j where `coin < threshold`, else the alias.
    """
    size = probabilities.numel()
    weights = probabilities * size
    buckets = torch.arange(size, device=weights.device)
    is_light = weights < 1
    light, heavy = buckets[is_light], buckets[~is_light]
    threshold = torch.ones_like(weights)
    alias = buckets.clone()
    if light.numel() and heavy.numel():
        deficit = (1 - weights[light]).cumsum(0)
        surplus = (weights[heavy] - 1).cumsum(0)
        start = torch.cat((deficit.new_zeros(1), deficit[:-1]))
        giver = torch.searchsorted(surplus, start, right=True).clamp_(max=heavy.numel() - 1)
        threshold[light] = weights[light]
        alias[light] = heavy[giver]
        taker = torch.searchsorted(deficit, surplus, right=True)  # the first light that overdraws each heavy
        reached = taker.clamp(max=light.numel() - 1)
        # A light one that starts exactly where a surplus ends takes nothing of it.
        overdrawn = ((taker < light.numel()) & (start[reached] < surplus))[:-1]
        excess = deficit[taker[:-1][overdrawn]] - surplus[:-1][overdrawn]
        threshold[heavy[:-1][overdrawn]] = 1 - excess
        alias[heavy[:-1][overdrawn]] = heavy[1:][overdrawn]
    fixed = (threshold * _SCALE).round().clamp_(0, _SCALE - 1).to(torch.int64)
    return (alias << 32) | fixed
