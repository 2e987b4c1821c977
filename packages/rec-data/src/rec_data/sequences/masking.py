"""Masked-item examples (BERT4Rec).

Every place is masked with probability ``prob``. Inference appends one mask to the history, so some examples must look
like that: with probability ``LAST_ONLY`` only the last place of an example is masked. The same holds for an example in
which chance masked nothing.

The randomness is counter-based: a hash of (seed, epoch, example, place). It is the same on every device and in every
batch that an example may be part of.
"""

import torch
from torch import Tensor
from torch.nn import functional

from rec_data.sequences.gather import IGNORE, repeat_rows

LAST_ONLY = 0.1
"""Share of the examples that look like inference."""

_WORD = 0xFFFFFFFF
_LAST_ONLY_SLOT = 1 << 20
"""A counter above every place of a sequence."""


def mask_items(
    items: Tensor, offsets: Tensor, examples: Tensor, *, prob: float, seed: int, epoch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hides each of [T] int64 items, B sequences end to end, behind the mask with probability ``prob``.

    ``offsets`` [B + 1] int64 say where each sequence starts; ``examples`` [B] int64 are their ids.

    Returns:
        items [T] with 0 at masked places, targets [T] (-100 where not masked), masked [T] bool.
    """
    total = len(items)
    place = torch.arange(total, device=items.device) - repeat_rows(offsets[:-1], offsets, total)  # [T] in the sequence
    keys = _keys(examples, seed, epoch)  # [B]
    masked = _uniform(repeat_rows(keys, offsets, total), place) < prob
    before = functional.pad(masked.cumsum(0), (1, 0))  # [T + 1] masked places before each
    only_last = (_uniform(keys, _LAST_ONLY_SLOT) < LAST_ONLY) | (before[offsets].diff() == 0)  # [B]
    masked &= ~repeat_rows(only_last, offsets, total)
    masked[offsets[1:] - 1] |= only_last
    return items.masked_fill(masked, 0), items.masked_fill(~masked, IGNORE), masked


def _keys(examples: Tensor, seed: int, epoch: int) -> Tensor:
    """One 32-bit word per example, stored in int64."""
    key = _mix(_mix(torch.full((), seed & _WORD, device=examples.device)) ^ (epoch & _WORD))
    return _mix(_mix(key ^ (examples & _WORD)) ^ (examples >> 32))


def _uniform(keys: Tensor, slots: Tensor | int) -> Tensor:
    """Numbers in [0, 1) with 32 bits, one per (key, slot)."""
    return _mix(keys ^ slots).double() / 2.0**32


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words that scatters them (two rounds of xor-shift and multiply), stored in int64."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _WORD
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _WORD
    return x ^ (x >> 15)
