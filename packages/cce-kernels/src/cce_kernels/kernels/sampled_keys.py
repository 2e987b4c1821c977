"""Ids of draws as sort keys, and marks of the items that a batch touches.

For tokens with negatives of their own, a token has N + 1 keys: its negatives, then its target. Bytes: 4 M (N + 1)
written, a chunk of tokens at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.kernels.sampled_draw import draw_ids, read_size
from cce_kernels.kernels.sampled_state import UNSPECIALIZED, SampledState

_SLOTS = 256


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _keys(
    out, targets, seed_ptr, step_ptr, size_ptr, table,
    size, num_items, num_negatives, first_row, group_stride, ignore_index, first_token,
    TABLE: tl.constexpr, SLOTS: tl.constexpr, WITH_TARGET: tl.constexpr, MARK: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0)
    first = tl.program_id(1) * SLOTS
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    row = first_row.to(tl.int64) + (first_token + local).to(tl.int64) * group_stride
    ids = draw_ids(seed, step, row, first, bound, table, TABLE, SLOTS)
    slots = first + tl.arange(0, SLOTS)
    if MARK:
        tl.store(out + ids, tl.full((SLOTS,), 1, tl.int32), mask=slots < num_negatives)
    else:
        width = num_negatives
        if WITH_TARGET:
            width = num_negatives + 1
            target = tl.load(targets + first_token + local)
            valid = (target != ignore_index) & (target >= 0) & (target < num_items)
            # A hit, and every draw of a token that does not count, is no item's: no segment holds it.
            ids = tl.where(valid & (ids != target), ids, num_items)
            ids = tl.where(valid & (slots == num_negatives), target, ids)
        tl.store(out + local.to(tl.int64) * width + slots, ids.to(out.dtype.element_ty), mask=slots < width)


def _launch(state: SampledState, out: Tensor, first: int, rows: int, *, with_target: bool, mark: bool) -> None:
    width = state.num_negatives + int(with_target)
    _keys[(rows, -(-width // _SLOTS))](
        out,
        state.targets,
        state.seed,
        state.step,
        state.seed if state.size_tensor is None else state.size_tensor,
        state.targets if state.table is None else state.table,
        state.size,
        state.weight.shape[0],
        state.num_negatives,
        state.groups.first,
        state.groups.stride,
        state.ignore_index,
        first,
        TABLE=state.table_kind,
        SLOTS=_SLOTS,
        WITH_TARGET=with_target,
        MARK=mark,
        num_warps=4,
    )


def launch_token_keys(state: SampledState, keys: Tensor, first_token: int, num_tokens: int) -> None:
    """Write `keys` int32 [num_tokens, N + 1] of tokens with negatives of their own; V where nothing is added."""
    _launch(state, keys, first_token, num_tokens, with_target=True, mark=False)


def launch_group_ids(state: SampledState, ids: Tensor) -> None:
    """Write the ids [G, N] of all groups, for tests: what the kernels draw, by their own code."""
    _launch(state, ids, 0, state.groups.number, with_target=False, mark=False)


def launch_mark_items(state: SampledState, touched: Tensor) -> None:
    """Set `touched` int32 [V] to 1 at every item that a group draws."""
    _launch(state, touched, 0, state.groups.number, with_target=False, mark=True)
