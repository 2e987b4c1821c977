"""Masked-item examples (BERT4Rec).

Every place is masked with probability ``prob``. Inference appends one mask after the history, so some examples must
show just
that: with probability ``LAST_ONLY`` an example has its last place masked and no other; so has one in which chance
masked nothing.

The randomness is counter-based: a hash of (seed, epoch, example, place), the same on every device and for every batch
that an example may fall into.
"""

import torch
from torch import Tensor

from rec_data.gather import IGNORE

LAST_ONLY = 0.1
"""Share of the examples that look as inference does."""

_WORD = 0xFFFFFFFF
_LAST_ONLY_SLOT = 1 << 20
"""A counter beyond every place of a sequence."""


def mask_items(
    inputs: Tensor, lengths: Tensor, examples: Tensor, *, prob: float, seed: int, epoch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hides some items behind the mask.

    Args:
        inputs: [B, L] int64 items, padded on the right.
        lengths: [B] int64.
        examples: [B] int64 ids of the examples.
        prob: Probability that a place is masked.
        seed: Of the masks.
        epoch: Of the masks.

    Returns:
        inputs [B, L] with 0 at masked places, lengths [B], targets [B, L] (-100 where not masked), masked [B, L] bool.
    """
    place = torch.arange(inputs.shape[1], device=inputs.device)
    valid = place < lengths[:, None]
    last = place == lengths[:, None] - 1
    masked = (_uniform(examples[:, None], place, seed, epoch) < prob) & valid
    slot = torch.full_like(examples, _LAST_ONLY_SLOT)
    only_last = (_uniform(examples, slot, seed, epoch) < LAST_ONLY) | ~masked.any(dim=1)
    masked = torch.where(only_last[:, None], last, masked)
    return inputs.masked_fill(masked, 0), lengths, inputs.masked_fill(~masked, IGNORE), masked


def _uniform(example: Tensor, slot: Tensor, seed: int, epoch: int) -> Tensor:
    """Numbers in [0, 1) with 32 bits, one for each (example, slot)."""
    key = _mix(_mix(torch.full_like(slot, seed & _WORD)) ^ (epoch & _WORD))
    bits = _mix(_mix(_mix(key ^ (example & _WORD)) ^ (example >> 32)) ^ slot)
    return bits.double() / 2.0**32


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words that scatters them (two rounds of xor-shift and multiply), held in int64."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _WORD
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _WORD
    return x ^ (x >> 15)
