"""Ideas for the kernels as edits of their text: each is timed against the package as it is (try_variants.py).

An idea that wins is entered in the package and leaves this list; one that loses leaves it too. TUNING.md keeps both.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/cce_kernels"
FORWARD, BACKWARD = "kernels/full_forward.py", "kernels/full_backward.py"
Edit = tuple[str, str, str]  # file, what it says (once), what it is to say


@dataclass(frozen=True)
class Variant:
    """One idea."""

    name: str
    points: tuple[str, ...]  # of points.py, where it is timed
    why: str  # what is predicted
    edits: tuple[Edit, ...] = field(default=(), repr=False)
    op: str = "full"


def apply(variant: Variant, folder: Path) -> Path:
    """Copy the package into a folder and edit it; the folder is what PYTHONPATH must begin with.

    Raises:
        ValueError: an edit does not find its text exactly once: the package has changed under it.
    """
    target = folder / "cce_kernels"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in variant.edits:
        text = (target / name).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{variant.name}: {name} says {text.count(old)} times, not once: {old[:60]!r}")
        (target / name).write_text(text.replace(old, new))
    return folder


_EXP2 = '''\
@triton.jit
def exp2_by_fma(x):
    """2^x on the multiply-add units: 2^round(x) by its exponent, 2^rest by a polynomial (relative error 2.4e-7)."""
    x = tl.maximum(x, -126.0)
    shifted = x + 12582912.0
    rest = x - (shifted - 12582912.0)
    p = 0.0013390863 * rest + 0.0096179017
    p = p * rest + 0.0555032767
    p = p * rest + 0.2402264923
    p = p * rest + 0.6931471825
    p = p * rest + 1.0
    return (p.to(tl.int32, bitcast=True) + (shifted.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def exp2_mixed(x, QUARTER: tl.constexpr):
    """2^x [A, B]: every second column (or every fourth) on the multiply-add units, the others on the special ones."""
    a, b = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
    if QUARTER:
        c, d = tl.split(tl.reshape(b, [x.shape[0], x.shape[1] // 4, 2]))
        b = tl.reshape(tl.join(tl.exp2(c), exp2_by_fma(d)), [x.shape[0], x.shape[1] // 2])
    else:
        b = exp2_by_fma(b)
    return tl.reshape(tl.join(tl.exp2(a), b), [x.shape[0], x.shape[1]])


@triton.jit
def cap_scores('''


def _exp2(quarter: bool) -> tuple[Edit, ...]:
    return (
        ("kernels/full_tiles.py", "@triton.jit\ndef cap_scores(", _EXP2),
        (FORWARD, "    cap_slope,\n", "    cap_slope,\n    exp2_mixed,\n"),
        (BACKWARD, "    cap_slope,\n", "    cap_slope,\n    exp2_mixed,\n"),
        (FORWARD, "p = tl.exp2(scores2 - reference[:, None])",
         f"p = exp2_mixed(scores2 - reference[:, None], {quarter})"),
        (BACKWARD, "p = tl.exp2(scores * LOG2E - (shift - P_SHIFT)[None, :])",
         f"p = exp2_mixed(scores * LOG2E - (shift - P_SHIFT)[None, :], {quarter})"),
    )  # fmt: skip


# A program holds all 512 columns of its items for the scores, but sums only half of the columns of dW.
_HALVES = (
    ("tuning.py", "512: (FullTiles(64, 64, 8, 2, tma=True), FullTiles(64, 64, 8, 2, tma=True)),\n}\n# Not measured",
     "512: (FullTiles(64, 64, 8, 2, tma=True), FullTiles(32, 128, 8, 2, tma=True)),\n}\n# Not measured"),
    (BACKWARD, "    dim0, dim1 = split_dimension(dim)\n    splits", "    dim0, dim1 = 256, 256\n    splits"),
    (BACKWARD, "grid = (-(-num_items // tiles.block_v), splits)", "grid = (-(-num_items // tiles.block_v), splits, 2)"),
    (BACKWARD, "        h0 = stream0.load([first, 0])  # [BLOCK_M, DIM0]\n",
     "        h0 = stream0.load([first, tl.program_id(2) * 256])\n"),
    (BACKWARD, "            h1 = stream1.load([first, DIM0])\n",
     "            h1 = stream0.load([first, 256 - tl.program_id(2) * 256])\n"),
    (BACKWARD, "h0 = load_tile(hidden, first, end - first, 0, DIM0, BLOCK_M, DIM, MASKED)",
     "h0 = load_tile(hidden + tl.program_id(2) * 256, first, end - first, 0, DIM0, BLOCK_M, DIM, MASKED)"),
    (BACKWARD, "h1 = load_tile(hidden, first, end - first, DIM0, DIM1, BLOCK_M, DIM, MASKED)",
     "h1 = load_tile(hidden + 256 - tl.program_id(2) * 256, first, end - first, 0, DIM1, BLOCK_M, DIM, MASKED)"),
    (BACKWARD, "        acc0 = product(rounded, h0, acc0, PRECISION)\n        if DIM1 > 0:\n"
     "            acc1 = product(rounded, h1, acc1, PRECISION)\n",
     "        acc0 = product(rounded, h0, acc0, PRECISION)\n"),
    (BACKWARD, "h0 = gather_rows(hidden, tokens, inside, 0, DIM0, DIM)\n        h1 = h0\n        if DIM1 > 0:\n"
     "            h1 = gather_rows(hidden, tokens, inside, DIM0, DIM1, DIM)\n",
     "h0 = gather_rows(hidden + tl.program_id(2) * 256, tokens, inside, 0, DIM0, DIM)\n"),
    (BACKWARD, "            acc0 = product(part, h0, acc0, PRECISION)\n            if DIM1 > 0:\n"
     "                acc1 = product(part, h1, acc1, PRECISION)\n",
     "            acc0 = product(part, h0, acc0, PRECISION)\n"),
    (BACKWARD, "w0 = load_tile(weight, start, rows_left, 0, DIM0,", "own = tl.program_id(2) * 256\n"
     "    w0 = load_tile(weight + own, start, rows_left, 0, DIM0,"),
    (BACKWARD, "w1 = load_tile(weight, start, rows_left, DIM0, DIM1,",
     "w1 = load_tile(weight + 256 - own, start, rows_left, 0, DIM1,"),
    (BACKWARD, "acc1 = tl.zeros([BLOCK_V, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)",
     "acc1 = tl.zeros([BLOCK_V, 16], dtype=tl.float32)"),
    (BACKWARD, "    store_tile(dweight, row, rows_left, acc0 * factor, 0, DIM0, BLOCK_V, DIM)\n    if DIM1 > 0:\n"
     "        store_tile(dweight, row, rows_left, acc1 * factor, DIM0, DIM1, BLOCK_V, DIM)\n",
     "    store_tile(dweight + own, row, rows_left, acc0 * factor, 0, DIM0, BLOCK_V, DIM)\n"),
)  # fmt: skip


def _precision(name: str) -> tuple[Edit, ...]:
    return (("kernels/full_state.py", 'return "tf32x3" if', f'return "{name}" if'),)


def _tiles(old: str, new: str) -> tuple[Edit, ...]:
    return (("tuning.py", old, new),)


_FP32 = "128: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),\n    256: (FullTiles(32, 16"
SWEEP = ("d64", "d128", "d256")
VARIANTS = [
    Variant("as it is", (*SWEEP, "d320", "d512", "fp32", "flat", "master"), "the baseline of this run"),
    Variant("exp2 by FMA, half", ("d64",), "D 64 is bound by exp2: 5 %; a loss above", _exp2(False)),
    Variant("exp2 by FMA, a quarter", SWEEP, "the same with less work moved", _exp2(True)),
    Variant(
        "conversion at load", ("master",), "twice the bytes from L2, no TMA in forward: 20 % slower",
        (("full.py", "weight=weight.to(hidden.dtype) if hidden.dtype.itemsize < weight.dtype.itemsize else weight,",
          "weight=weight,"),),
    ),
    Variant(
        "two blocks of 256", ("d512",), "one block of 512 spills 13 KB a thread in backward, two spill 1",
        (("kernels/full_tiles.py", "if first >= 64 and first + rest < whole:",
          "if first >= 256 or (first >= 64 and first + rest < whole):"),),
    ),
    Variant("halves of D", ("d512",), "6 products for 4, at D 256's rate: backward 26 -> 21 ms", _HALVES),
    Variant("bf16x6", ("fp32",), "six products at twice the rate of three; fewer spills", _precision("bf16x6")),
    Variant("bf16x3", ("fp32",), "half the products; an error of 1e-5, not fp32's", _precision("bf16x3")),
    Variant(
        "fp32 tiles, 8 warps", ("fp32",), "half the registers a thread: no spills",
        _tiles(_FP32, _FP32.replace("(64, 32, 4, 2)", "(64, 32, 8, 2)").replace("(32, 64, 4, 2)", "(32, 64, 8, 2)")),
    ),
    Variant(
        "fp32 tiles, 32 x 32", ("fp32",), "the same by smaller tiles",
        _tiles(_FP32, _FP32.replace("(64, 32, 4, 2)", "(32, 32, 4, 2)").replace("(32, 64, 4, 2)", "(32, 32, 4, 2)")),
    ),
]  # fmt: skip
