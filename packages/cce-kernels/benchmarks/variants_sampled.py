"""Edits of the sampled loss's backward over tiles (variants.py says what each is for)."""

from __future__ import annotations

BACKWARD = "kernels/sampled_tile_backward.py"
Edit = tuple[str, str, str]  # as in variants.py

# The negatives of a group in ascending order, and the grid in that order: what is added at one time, and gathered, is a
# narrow range of items, which stays in L2.
SORTED = (
    (BACKWARD, "@triton.jit(do_not_specialize=UNSPECIALIZED)\ndef _backward(", """\
@triton.jit(do_not_specialize=UNSPECIALIZED)
def _sort_negatives(
    out, seed_ptr, step_ptr, size_ptr, table, size, num_negatives, first_row, group_stride, first_unit,
    TABLE: tl.constexpr, SLOTS: tl.constexpr,
):
    bound = read_size(size, size_ptr, TABLE)
    row = first_row.to(tl.int64) + (first_unit + tl.program_id(0)).to(tl.int64) * group_stride
    slots = tl.arange(0, SLOTS)
    ids = draw_ids(tl.load(seed_ptr), tl.load(step_ptr), row, 0, bound, table, TABLE, SLOTS).to(tl.int32)
    ids = tl.sort(tl.where(slots < num_negatives, ids, 2147483647))
    tl.store(out + tl.program_id(0).to(tl.int64) * SLOTS + slots, ids)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _backward(
    sorted_ids,"""),
    (BACKWARD, "import draw_once, read_size", "import draw_ids, draw_once, read_size"),
    (BACKWARD, "    GRAD_STRIDE: tl.constexpr,\n", "    GRAD_STRIDE: tl.constexpr, SORTED: tl.constexpr,\n"),
    (BACKWARD, "        ids = draw_once(seed, step, row, first, bound, table, TABLE, BLOCK_N)\n", """\
        if SORTED > 0:
            places = sorted_ids + (tl.program_id(0) // PARTS).to(tl.int64) * SORTED + slots
            ids = tl.load(places, mask=drawn, other=0).to(tl.int64)
        else:
            ids = draw_once(seed, step, row, first, bound, table, TABLE, BLOCK_N)
"""),
    (BACKWARD, "    _backward[(num_groups * parts, -(-blocks // tiles.steps))](\n", """\
    slots = max(16, 1 << (state.num_negatives - 1).bit_length())
    slots = slots if slots <= 8192 else 0
    placed = torch.empty(num_groups * slots, dtype=torch.int32, device=grad.device)
    if slots:
        tensors, numbers = state.tensors(), state.numbers()
        names = ("seed_ptr", "step_ptr", "size_ptr", "table")
        _sort_negatives[(num_groups,)](
            placed, *(tensors[name] for name in names), numbers["size"], numbers["num_negatives"],
            numbers["first_row"], state.groups.stride, first_group, TABLE=state.table_kind, SLOTS=slots, num_warps=8,
        )
    _backward[(num_groups * parts, -(-blocks // tiles.steps))](
        sorted_ids=placed,
        SORTED=slots,
"""),
    (BACKWARD, "import triton\nimport triton.language", "import torch\nimport triton\nimport triton.language"),
)  # fmt: skip


def one_block(warps: int) -> tuple[Edit, ...]:
    """Backward tiles of one block of 64 negatives a program, for every width up to 256."""
    tiles = f"TileTiles(64, 64, 1, {warps}, 1)"
    return (
        ("tuning_sampled.py", "TileTiles(64, 64, 8, 4, 2)", tiles),
        ("tuning_sampled.py", "TileTiles(64, 32, 8, 4, 2)", tiles),
        ("tuning_sampled.py", "TileTiles(64, 64, 8, 8, 2)", tiles),
    )


# The targets' part before the loop: h and its addresses leave the registers once it is in shared memory.
_PULL = """\
    if tl.program_id(1) == 0 and not SCRATCH:
        token_pull = -tl.load(pull + tokens, mask=exists, other=0.0) * upstream
        out = safe
        if HAS_MAP:
            out = tl.load(row_map + safe, mask=valid, other=0).to(tl.int64)
        products = token_pull[:, None] * h.to(tl.float32)
        keep_columns = valid[:, None] & inside[None, :]
        tl.atomic_add(dweight + out[:, None] * D + columns[None, :], products, mask=keep_columns, sem="relaxed")
        if HAS_BIAS:
            tl.atomic_add(dbias + out, token_pull, mask=valid, sem="relaxed")
"""
TARGETS_FIRST = (
    (BACKWARD, _PULL, ""),
    (BACKWARD, "    # A program is STEPS blocks of slots;", _PULL + "    # A program is STEPS blocks of slots;"),
)

# From D 256 on a program adds one half of the columns at a time: half the accumulators, so that two programs fit.
HALF_COLUMNS = (
    (BACKWARD, "    columns = tl.arange(0, BLOCK_D)\n    inside = columns < D\n    target = tl.load(", """\
    HALVES: tl.constexpr = 2 if BLOCK_D >= 256 else 1
    WIDTH: tl.constexpr = BLOCK_D // HALVES
    columns = tl.arange(0, WIDTH)
    inside = columns < D
    target = tl.load("""),
    (BACKWARD, "    upstream = tl.where(valid, tl.load(grad", """\
    h1 = h
    if HALVES == 2:
        h1 = tl.load(
            hidden + tokens[:, None] * D + (columns + WIDTH)[None, :],
            mask=exists[:, None] & (columns + WIDTH < D)[None, :], other=0.0,
        )
    upstream = tl.where(valid, tl.load(grad"""),
    (BACKWARD, "        if HAS_BIAS:\n            scores += tl.load(bias + ids)", """\
        if HALVES == 2:
            rows1 = tl.load(
                weight + ids[:, None] * D + (columns + WIDTH)[None, :],
                mask=drawn[:, None] & (columns + WIDTH < D)[None, :], other=0.0,
            )
            scores = tl.dot(rows1.to(h.dtype), tl.trans(h1), scores, input_precision=PRECISION)
        if HAS_BIAS:
            scores += tl.load(bias + ids)"""),
    (BACKWARD, "            products = tl.dot((slopes * up).to(h.dtype), h, "
     "input_precision=PRECISION) / up\n", """\
            products = tl.dot((slopes * up).to(h.dtype), h, input_precision=PRECISION) / up
            if HALVES == 2:
                products1 = tl.dot((slopes * up).to(h.dtype), h1, input_precision=PRECISION) / up
"""),
    (BACKWARD, "        keep_columns = drawn[:, None] & inside[None, :]\n        if SCRATCH:\n", """\
        keep_columns = drawn[:, None] & inside[None, :]
        if HALVES == 2:
            keep_columns1 = drawn[:, None] & (columns + WIDTH < D)[None, :]
        if SCRATCH:
            if HALVES == 2:
                if not HALF:
                    products1 = tl.dot(slopes.to(h.dtype), h1, input_precision=PRECISION)
                tl.store(
                    dweight + (scratch_row + slots)[:, None] * D + (columns + WIDTH)[None, :], products1,
                    mask=keep_columns1,
                )
"""),
    (BACKWARD, "            tl.atomic_add(dweight + out[:, None] * D + columns[None, :], products, "
     'mask=keep_columns, sem="relaxed")\n            if HAS_BIAS:\n                tl.atomic_add(dbias + out, '
     "tl.sum(slopes", """\
            tl.atomic_add(dweight + out[:, None] * D + columns[None, :], products, mask=keep_columns, sem="relaxed")
            if HALVES == 2:
                if not HALF:
                    products1 = tl.dot(slopes.to(h.dtype), h1, input_precision=PRECISION)
                tl.atomic_add(
                    dweight + out[:, None] * D + (columns + WIDTH)[None, :], products1, mask=keep_columns1,
                    sem="relaxed",
                )
            if HAS_BIAS:
                tl.atomic_add(dbias + out, tl.sum(slopes"""),
)  # fmt: skip
_PULL_OF_HALVES = _PULL.replace(
    "        if HAS_BIAS:\n",
    """\
        if HALVES == 2:
            tl.atomic_add(
                dweight + out[:, None] * D + (columns + WIDTH)[None, :], token_pull[:, None] * h1.to(tl.float32),
                mask=valid[:, None] & (columns + WIDTH < D)[None, :], sem="relaxed",
            )
        if HAS_BIAS:
""",
)
CAPPED = (
    BACKWARD, "        num_stages=tiles.num_stages,\n    )",
    "        num_stages=tiles.num_stages,\n        maxnreg=128,\n    )",
)  # fmt: skip
TARGETS_FIRST_OF_HALVES = (TARGETS_FIRST[0], (*TARGETS_FIRST[1][:2], _PULL_OF_HALVES + TARGETS_FIRST[1][1]))
