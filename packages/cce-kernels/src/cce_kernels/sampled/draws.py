"""Who shares negatives, and the ids that the kernels draw, in plain torch.

Random words come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the same
bits that the Triton kernels compute in registers. The key is the 64-bit seed; the four 32-bit counters are
`(slot // 2, row, step, stream)`. Two draws come from one block: an even slot takes words 0 and 1, an odd slot words 2
and 3. Counters of different slots, rows or steps differ, so their draws never share a block.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cce_kernels.checks import plain_integer
from cce_kernels.sampled.samplers import Sampler, Source, Uniform, prepare
from cce_kernels.sampled.validation import DEFAULT_TILE_TOKENS, check_draw
from cce_kernels.validation import DEFAULT_IGNORE_INDEX

MASK32 = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
STREAM_NEGATIVES = 0  # the fourth counter: one value for each purpose that random words are drawn for


def philox_4x32(key: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32: four int64 tensors of words in [0, 2**32).

    The key is an int64 scalar, all 64 bits of it; the counters are int64 in [0, 2**32), broadcast against each other.
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

    Returns int64 [R, num_slots] for `rows` int64 [R], the row or tile counters in [0, 2**32), and a `bound` in
    [1, 2**31). `seed` and `step` are int64 scalars.
    """
    pairs = torch.arange((num_slots + 1) // 2, device=rows.device)
    zero = torch.zeros((), dtype=torch.int64, device=rows.device)
    words = philox_4x32(seed, pairs[None, :], rows[:, None], step & MASK32, zero + STREAM_NEGATIVES)
    w0, w1, w2, w3 = words  # each [R, pairs]
    even = w1 * bound + ((w0 * bound) >> 32)
    odd = w3 * bound + ((w2 * bound) >> 32)
    return torch.stack((even, odd), dim=-1).flatten(1)[:, :num_slots]


Sharing = Literal["none", "tile", "batch"]
BATCH_GROUP = 64  # sharing="batch": tokens that are computed together; every group draws the same ids


class Groups(NamedTuple):
    """Tokens in groups that share one set of negatives.

    Token m of the batch is token `(m + shift) % tokens` of group `(m + shift) // tokens`; group g draws with the row
    counter `first + stride * g`.
    """

    tokens: int
    number: int
    shift: int | Tensor  # places of the first group that lie before this batch (an earlier micro-batch or rank)
    first: int | Tensor
    stride: int


def groups_of(num_tokens: int, sharing: Sharing, tile_tokens: int, row_offset: Tensor | int) -> Groups:
    """The groups of a batch whose first token is row `row_offset` of a larger one.

    A tensor is an int64 scalar on the device: the number of groups is then what any offset may need.
    """
    if sharing == "none":
        return Groups(1, num_tokens, 0, row_offset, 1)
    if sharing == "batch":
        return Groups(BATCH_GROUP, -(-num_tokens // BATCH_GROUP), 0, 0, 0)
    shift = row_offset % tile_tokens
    most = tile_tokens - 1 if isinstance(shift, Tensor) else shift
    return Groups(tile_tokens, -(-(num_tokens + most) // tile_tokens), shift, row_offset // tile_tokens, 1)


def draw_ids(
    source: Source, seed: Tensor, step: Tensor, groups: Groups, start: int, stop: int, num_negatives: int
) -> Tensor:
    """Draw for groups [start, stop): ids int64 [stop - start, N]."""
    rows = groups.first + groups.stride * torch.arange(start, stop, device=seed.device)
    draws = scaled_draws(seed, step, rows, num_negatives, source.size)
    positions = draws >> 32
    if source.id_table is None:
        return positions
    packed = source.id_table[positions]
    if not source.alias:
        return packed
    return torch.where((draws & MASK32) < (packed & MASK32), positions, packed >> 32)


def as_counter(value: Tensor | int, device: torch.device) -> Tensor:
    """A seed or step as an int64 scalar on the device (filled there: a copy from the host would be waited for)."""
    if isinstance(value, Tensor):
        return value.reshape(()).to(torch.int64)
    return torch.full((), value, dtype=torch.int64, device=device)


def draw_negatives(
    num_tokens: int,
    num_items: int,
    *,
    num_negatives: int,
    seed: Tensor | int,
    step: Tensor | int = 0,
    row_offset: Tensor | int = 0,
    sampler: Sampler = Uniform(),  # noqa: B008 - frozen, without state
    sharing: Sharing = "none",
    tile_tokens: int = DEFAULT_TILE_TOKENS,
    targets: Tensor | None = None,
    ignore_index: int = DEFAULT_IGNORE_INDEX,
) -> Tensor:
    """The ids that `sampled_linear_cross_entropy` draws, accidental hits not yet removed.

    Args:
        num_tokens: M, ignored tokens counted in.
        num_items: V.
        num_negatives: N.
        seed: as in `sampled_linear_cross_entropy`, and so are `step`, `row_offset`, `sampler`, `sharing` and
            `tile_tokens`.
        step: the step counter.
        row_offset: rows before the first token: parts of a batch then draw what the whole would, except with `InBatch`.
        sampler: where ids come from.
        sharing: who shares a set of negatives.
        tile_tokens: tokens that share with `sharing="tile"`.
        targets: int64 [M], for `InBatch` only: those of the same call of the loss, among which it draws.
        ignore_index: as there; for `InBatch` only.

    Returns:
        int64 [M, N], on the device of the tensors among `seed`, `step`, `row_offset` and `targets`, which is one; else
        on the CPU.

    Raises:
        ValueError: an argument is out of its range, or would not be read; the message names it.
    """
    num_tokens, num_items, num_negatives, row_offset, tile_tokens, ignore_index, seed, step = map(
        plain_integer, (num_tokens, num_items, num_negatives, row_offset, tile_tokens, ignore_index, seed, step)
    )
    check_draw(
        num_tokens, num_items, num_negatives, seed, step, row_offset, sampler, sharing, tile_tokens, targets,
        ignore_index,
    )  # fmt: skip
    device = torch.device("cpu")
    for given in (targets, row_offset, step, seed):
        device = given.device if isinstance(given, Tensor) else device
    if targets is None:
        targets = torch.zeros(num_tokens, dtype=torch.int64, device=device)
    source = prepare(sampler, targets, ignore_index, num_items, correct=False)
    row_offset = row_offset.reshape(()) if isinstance(row_offset, Tensor) else row_offset
    groups = groups_of(num_tokens, sharing, tile_tokens, row_offset)
    counters = as_counter(seed, device), as_counter(step, device)
    ids = draw_ids(source, *counters, groups, 0, groups.number, num_negatives)
    token_group = (torch.arange(num_tokens, device=device) + groups.shift) // groups.tokens
    return ids[token_group]
