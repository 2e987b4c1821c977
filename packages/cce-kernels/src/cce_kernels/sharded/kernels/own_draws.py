"""Sampled losses over sharded rows: the draws of each group whose rows this process has, one after another.

A group draws N ids, of which a process has about N / P. The sums over negatives then run over its own ids alone: with
the others masked, every process would compute all products. Draws keep their order, so results do not change from run
to run.

Bytes: 4 G N / P written (G groups). Integer instructions: half a Philox block per draw, of all N.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.draw import draw_ids, first_group, read_size
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, table_kind
from cce_kernels.shard import CLASSES, Rows

_SLOTS = 256
_CLASSES = tl.constexpr(CLASSES)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def own_draws_kernel(
    rows, counts, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    size, num_negatives, first_row, row_stride, first_class, num_classes,
    TABLE: tl.constexpr, SLOTS: tl.constexpr, GROUP_TOKENS: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """Grid (groups,): the rows of a group's own draws, and their number."""
    group = tl.program_id(0)
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    first_row, _ = first_group(offset_ptr, first_row, first_row, GROUP_TOKENS, TABLE, HAS_OFFSET)
    row = first_row + group.to(tl.int64) * row_stride
    out = rows + group.to(tl.int64) * num_negatives
    found = tl.zeros((), tl.int32)
    for first in range(0, num_negatives, SLOTS):
        ids = draw_ids(seed, step, row, first, bound, id_table, TABLE, SLOTS)
        own_class = ids % _CLASSES - first_class
        own = (own_class >= 0) & (own_class < num_classes) & (first + tl.arange(0, SLOTS) < num_negatives)
        places = found + tl.cumsum(own.to(tl.int32), 0) - 1
        tl.store(out + places, (ids // _CLASSES * num_classes + own_class).to(tl.int32), mask=own)
        found += tl.sum(own.to(tl.int32), 0)
    tl.store(counts + group, found)


def pack_own_draws(call: SampledCall, rows: Rows) -> tuple[Tensor, Tensor]:
    """Rows int32 [G, N] that the groups of a call draw among those of this process, and how many of each are filled.

    With one set of draws for the whole batch, G is 1.
    """
    groups = call.num_groups if call.row_stride else 1
    # Places that no draw fills are read too, as row 0, and left out afterwards.
    found = torch.zeros(groups, call.num_negatives, dtype=torch.int32, device=call.hidden.device)
    counts = torch.empty(groups, dtype=torch.int32, device=call.hidden.device)
    own_draws_kernel[(groups,)](
        found, counts, call.seed, call.step, call.seed if call.size_tensor is None else call.size_tensor,
        call.seed if call.row_offset is None else call.row_offset,
        call.seed if call.id_table is None else call.id_table,
        call.size, call.num_negatives, call.first_row, call.row_stride, *rows.classes, TABLE=table_kind(call),
        SLOTS=_SLOTS, GROUP_TOKENS=call.group_tokens, HAS_OFFSET=call.row_offset is not None, num_warps=4,
    )  # fmt: skip
    return found, counts
