"""Counter-based random ids in plain torch: the same bits that the Triton kernels make in registers.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is the 64-bit seed; the
four 32-bit counters are `(slot // 2, row, step, stream)`. Two draws come from one block: an even slot takes words 0 and
1, an odd slot words 2 and 3. Counters of different slots, rows or steps differ, so their draws never share a block.
"""

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
STREAM_NEGATIVES = 0  # the fourth counter: one value for each purpose that random words are drawn for


def philox_4x32(key: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32.

    Args:
        key: int64 scalar, the 64 bits of the key.
        c0: int64, values in [0, 2**32); the counters broadcast against each other.
        c1: as `c0`.
        c2: as `c0`.
        c3: as `c0`.

    Returns:
        Four int64 tensors of words in [0, 2**32).
    """
    k0, k1 = key & MASK32, (key >> 32) & MASK32
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, so shifting and masking gives the exact 32-bit halves.
        product_b, product_a = c2 * _ROUND_B, c0 * _ROUND_A
        c0 = ((product_b >> 32) & MASK32) ^ c1 ^ k0
        c2 = ((product_a >> 32) & MASK32) ^ c3 ^ k1
        c1, c3 = product_b & MASK32, product_a & MASK32
        k0, k1 = (k0 + _KEY_A) & MASK32, (k1 + _KEY_B) & MASK32
    return c0, c1, c2, c3


def scaled_draws(seed: Tensor, step: Tensor, rows: Tensor, num_slots: int, bound: Tensor | int) -> Tensor:
    """64-bit uniform numbers times `bound`, as fixed point with 32 fractional bits.

    The integer part (`>> 32`) is uniform over [0, bound) with a bias below `bound / 2**64`; the fraction
    (`& MASK32`) is uniform given the integer part, and serves as the coin of an alias table.

    Args:
        seed: int64 scalar.
        step: int64 scalar.
        rows: int64 [R], the row or tile counters, in [0, 2**32).
        num_slots: draws a row.
        bound: in [1, 2**31).

    Returns:
        int64 [R, num_slots].
    """
    pairs = torch.arange((num_slots + 1) // 2, device=rows.device)
    zero = torch.zeros((), dtype=torch.int64, device=rows.device)
    words = philox_4x32(seed, pairs[None, :], rows[:, None], step & MASK32, zero + STREAM_NEGATIVES)
    w0, w1, w2, w3 = words  # each [R, pairs]
    even = w1 * bound + ((w0 * bound) >> 32)
    odd = w3 * bound + ((w2 * bound) >> 32)
    return torch.stack((even, odd), dim=-1).flatten(1)[:, :num_slots]
