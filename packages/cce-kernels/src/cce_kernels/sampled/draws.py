"""What is drawn from, who shares negatives, and the ids that the kernels draw, in plain torch.

Random words come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the same
bits that the Triton kernels compute in registers. The key is the 64-bit seed; the four 32-bit counters are
`(slot // 2, row, step, stream)`. Two draws come from one block: an even slot takes words 0 and 1, an odd slot words 2
and 3. Counters of different slots, rows or steps differ, so their draws never share a block.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.checks import plain_integer
from cce_kernels.reduction import masks
from cce_kernels.sampled.samplers import Mixed, Popularity, Sampler, Source, Uniform
from cce_kernels.sampled.validation import DEFAULT_TILE_TOKENS, Sharing, check_draw
from cce_kernels.validation import DEFAULT_IGNORE_INDEX

MASK32 = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
STREAM_NEGATIVES, STREAM_OTHERS = 0, 1  # the fourth counter: one value for each purpose of random words


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


def scaled_draws(
    seed: Tensor, step: Tensor, rows: Tensor, num_slots: int, bound: Tensor | int, stream: int = STREAM_NEGATIVES
) -> Tensor:
    """64-bit uniform numbers times `bound`, as fixed point with 32 fractional bits.

    The integer part (`>> 32`) is uniform over [0, bound) with a bias below `bound / 2**64`; the fraction
    (`& MASK32`) is uniform given the integer part, and serves as the coin of an alias table.

    Returns int64 [R, num_slots] for `rows` int64 [R], the row or tile counters in [0, 2**32), and a `bound` in
    [1, 2**31). `seed` and `step` are int64 scalars.
    """
    pairs = torch.arange((num_slots + 1) // 2, device=rows.device)
    zero = torch.zeros((), dtype=torch.int64, device=rows.device)
    words = philox_4x32(seed, pairs[None, :], rows[:, None], step & MASK32, zero + stream)
    w0, w1, w2, w3 = words  # each [R, pairs]
    even = w1 * bound + ((w0 * bound) >> 32)
    odd = w3 * bound + ((w2 * bound) >> 32)
    return torch.stack((even, odd), dim=-1).flatten(1)[:, :num_slots]


BATCH_GROUP = 64  # sharing="batch": tokens that are computed together; every group draws the same ids
_LEAST_MIXED = 1 << 15  # ids that `Mixed` draws among, so that few tokens do not mean few items of the catalogue


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
    return _ids_of(source, scaled_draws(seed, step, rows, num_negatives, source.size))


def _ids_of(source: Source, draws: Tensor) -> Tensor:
    """The ids of scaled draws int64 [...]."""
    positions = draws >> 32
    if source.id_table is None:
        return positions
    packed = source.id_table[positions]
    if not source.alias:
        return packed
    return torch.where((draws & MASK32) < (packed & MASK32), positions, packed >> 32)


def prepare(
    sampler: Sampler, targets: Tensor, ignore_index: int, num_items: int, seed: Tensor, step: Tensor, *, correct: bool
) -> Source:
    """Make a sampler ready for one batch of targets (int64 [M], any value), without a synchronisation.

    `seed` and `step` are int64 scalars. `correct`: the objective corrects scores by log q, where the sampler agrees.
    """
    if isinstance(sampler, Uniform):
        return Source(num_items, None, False, None, None)
    if isinstance(sampler, Popularity):
        table, log_q = sampler.tables(targets.device)
        if not correct or sampler.logq is False:
            return Source(num_items, table, True, None, None)
        _, _, safe = masks(targets, ignore_index, num_items)
        log_rest = torch.log1p(-log_q[safe].double().exp()).float()
        return Source(num_items, table, True, log_q, log_rest)
    _, _, safe = masks(targets, ignore_index, num_items)
    valid, _, pool = masks(targets if sampler.pool is None else sampler.pool, ignore_index, num_items)
    # The pool of valid targets: they come first, the invalid ones after them are never drawn.
    order = torch.sort(valid, descending=True, stable=True).indices
    table = pool[order]  # [K]
    size = valid.sum().clamp(min=1)  # 0-dim; with no valid token nothing that is drawn counts
    times: Tensor | int = 1
    others: Tensor | int = 0
    if isinstance(sampler, Mixed):
        table, size, times, others = _mixed(sampler, table, size, num_items, seed, step)
    if not correct or sampler.logq is False:
        return Source(size, table, False, None, None)
    counts = pool.new_zeros(num_items).scatter_add_(0, pool, valid.to(torch.int64))  # int adds
    q = (counts * times + others) / size.double()
    return Source(size, table, False, q.log().float(), torch.log1p(-q[safe].clamp(max=1.0)).float())


def _mixed(
    sampler: Mixed, pool: Tensor, number: Tensor, num_items: int, seed: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Mixed` draws among: every target that counts, equally often, and then items of the catalogue.

    All numbers follow from how many targets count, so that ranks and one big batch draw the same.

    Args:
        sampler: the share of items, and how they are drawn.
        pool: int64 [K], the targets, those that count first.
        number: int64 [], how many count, at least 1.
        num_items: V.
        seed: int64 [], as is the step.
        step: the items are a function of both.

    Returns:
        Ids int64 [S], how many of them are drawn among [], how often each target is one of these [], and how often each
        item is expected among those of the catalogue, float64 [V] or [].
    """
    ratio = sampler.share / (1.0 - sampler.share)
    least = math.ceil((1.0 - sampler.share) * _LEAST_MIXED)
    most_targets = least + pool.numel()
    most_items = math.ceil(most_targets * ratio)
    times = (number + (least - 1)) // number
    targets = number * times
    items = (targets.double() * ratio).round().to(torch.int64)

    source = prepare(sampler.others, pool[:0], 0, num_items, seed, step, correct=False)
    row = torch.zeros(1, dtype=torch.int64, device=pool.device)
    drawn = _ids_of(source, scaled_draws(seed, step, row, most_items, source.size, STREAM_OTHERS)[0])
    place = torch.arange(most_targets + most_items, device=pool.device)
    target = torch.nn.functional.pad(pool, (0, 1))[place % number]  # without a token there is one place to read
    ids = torch.where(place < targets, target, drawn[(place - targets).clamp(0, most_items - 1)])
    q = torch.full((), 1.0 / num_items, dtype=torch.float64, device=pool.device)
    if isinstance(sampler.others, Popularity):
        q = sampler.others.tables(pool.device)[1].double().exp()
    return ids, targets + items, times, items * q


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
        row_offset: rows before the first token: parts of a batch then draw what the whole would, with `InBatch` and
            `Mixed` only from the same `pool`.
        sampler: where ids come from.
        sharing: who shares a set of negatives.
        tile_tokens: tokens that share with `sharing="tile"`.
        targets: int64 [M], for `InBatch` and `Mixed` only: those of the same call of the loss, among which they draw.
        ignore_index: as there; for `InBatch` and `Mixed` only.

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
    counters = as_counter(seed, device), as_counter(step, device)
    source = prepare(sampler, targets, ignore_index, num_items, *counters, correct=False)
    row_offset = row_offset.reshape(()) if isinstance(row_offset, Tensor) else row_offset
    groups = groups_of(num_tokens, sharing, tile_tokens, row_offset)
    ids = draw_ids(source, *counters, groups, 0, groups.number, num_negatives)
    token_group = (torch.arange(num_tokens, device=device) + groups.shift) // groups.tokens
    return ids[token_group]
