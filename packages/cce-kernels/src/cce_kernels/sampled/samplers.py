"""Samplers of negatives, and what a kernel needs to draw from them by counter.

`Popularity` draws from an alias table: O(1) draws from any discrete distribution (Walker 1977), built without a Python
loop. Items below the mean weight (light) are filled up by items above it (heavy), both in order. Light item i takes its
whole deficit from the heavy item that is current when i begins; a heavy item that has given away its surplus becomes a
partly filled bucket itself, topped up by the next heavy one. With prefix sums of deficits and surpluses both
assignments are binary searches (the sweep of Huebschle-Schneider and Sanders, "Parallel weighted random sampling",
2022).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.checks import is_number
from cce_kernels.shard import Rows

_SCALE = 1 << 32


def build_alias_table(probabilities: Tensor) -> Tensor:
    """Pack thresholds and aliases of a distribution, float64 [V], sum 1, V < 2**31, into one int64 a bucket.

    The alias is in the high 32 bits, the threshold (in units of 2**-32) in the low 32. A draw takes a uniform bucket j
    and a uniform 32-bit coin: the item is j where `coin < threshold`, else the alias.
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


class Source(NamedTuple):
    """A sampler made ready for one batch.

    A draw is a uniform position in [0, size). Without an id table the position is the id; with `alias` set the table is
    an alias table; otherwise `id_table[position]` is the id (the pool of the batch's targets).
    """

    size: Tensor | int  # number of positions; an int64 scalar on the device for a pool
    id_table: Tensor | None  # int64 [positions]
    alias: bool
    log_q: Tensor | None  # fp32 [V]; None: no correction by q
    log_rest: Tensor | None  # fp32 [M]: log(1 - q_t) of each token's target; None goes with log_q


@dataclass(frozen=True)
class Uniform:
    """Every item with the same probability. The score of a negative is corrected by `log((V - 1) / N_m)`."""


@dataclass(frozen=True, eq=False)
class Popularity:
    """Items in proportion to `count ** alpha`, drawn from an alias table.

    Attributes:
        counts: [V], not negative, on any device; the tables are copied to the device of a call once and kept.
        alpha: exponent, finite.
        logq: correct the scores by log q; False corrects by the constant of the uniform sampler. None means True for
            the softmax; the pointwise objectives have no correction and refuse True.
    """

    counts: Tensor
    alpha: float = 1.0
    logq: bool | None = None
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _own: dict[tuple[torch.device, Rows], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.counts, Tensor):
            raise ValueError(f"Popularity.counts: found {type(self.counts).__name__}, allowed: a tensor [V]")
        if self.counts.dim() != 1 or self.counts.numel() == 0:
            raise ValueError(f"Popularity.counts: found the shape {list(self.counts.shape)}, allowed: [V], V >= 1")
        if self.counts.is_complex():
            raise ValueError(f"Popularity.counts: found {self.counts.dtype}, allowed: real numbers")
        if not is_number(self.alpha):
            raise ValueError(f"Popularity.alpha: found {self.alpha!r}, allowed: a finite number")
        counts = self.counts.detach().to(torch.float64)
        if not bool(torch.isfinite(counts).all()) or bool((counts < 0).any()):
            raise ValueError("Popularity.counts: found a negative, infinite or NaN count, allowed: 0 and up, finite")
        weights = torch.where(counts > 0, counts**self.alpha, 0.0)
        total = weights.sum()
        if not (bool(torch.isfinite(total)) and float(total) > 0):
            raise ValueError(
                f"Popularity.counts: found {float(total):g} as the sum of counts ** alpha, allowed: positive, finite"
            )
        q = weights / total
        self._tables[q.device] = (build_alias_table(q), q.log().to(torch.float32))

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The alias table (int64 [V]) and log q (fp32 [V]) on a device."""
        if device not in self._tables:
            packed, log_q = next(iter(self._tables.values()))
            self._tables[device] = (packed.to(device), log_q.to(device))
        return self._tables[device]

    def own_log_q(self, rows: Rows, device: torch.device) -> Tensor:
        """Log q (fp32 [n]) of the rows of one process, found once."""
        if (device, rows) not in self._own:
            self._own[device, rows] = rows.of(self.tables(device)[1])
        return self._own[device, rows]


@dataclass(frozen=True)
class InBatch:
    """A draw is a random valid token of the batch, the id its target: q is the target's share of the batch.

    Attributes:
        logq: as in `Popularity`.
        pool: int64 [K], the targets to draw among, those of this call too: of all ranks, in their order, to draw what
            one big batch would. Those that are not an id do not count. None: the targets of the call, so that
            micro-batches and ranks each draw among their own, whatever their `row_offset`.
    """

    logq: bool | None = None
    pool: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Mixed(InBatch):
    """Mixed negatives: a draw is a random valid token of the batch, or an item drawn from the whole catalogue.

    As in Yang et al., "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations" (WWW 2020
    companion). Scores are corrected by the mixture, `q = (1 - a) q_batch + a q_others`. The items are drawn once per
    step, in proportion to the tokens but no fewer than 2^15 a, and the draws of the step are among these.

    Attributes:
        others: how the items are drawn. `Popularity.logq` stays None there: `logq` of the mixture is what counts.
        share: a, from 0.01 to 0.95: the share of draws that are such items.
    """

    others: Uniform | Popularity = Uniform()
    share: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.others, Uniform | Popularity):
            raise ValueError(f"Mixed.others: found {self.others!r}, allowed: Uniform(), Popularity(counts)")
        if isinstance(self.others, Popularity) and self.others.logq is not None:
            raise ValueError(f"Mixed.others: found logq={self.others.logq!r}, allowed: None, and logq of Mixed itself")
        if not is_number(self.share) or not 0.01 <= self.share <= 0.95:
            raise ValueError(f"Mixed.share: found {self.share!r}, allowed: a number from 0.01 to 0.95")


Sampler = Uniform | Popularity | InBatch
