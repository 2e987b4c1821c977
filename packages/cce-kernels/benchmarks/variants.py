"""Ideas for the kernels as edits of their text: each is timed against the package as it is (try_variants.py).

An idea that wins is entered in the package and leaves this list; one that loses leaves it too. TUNING.md keeps both.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/cce_kernels"
BACKWARD = "kernels/full_backward.py"
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


_FP32 = """\
    128: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),
    256: (FullTiles(32, 16, 4, 2), FullTiles(16, 32, 4, 2)),
"""
# 64 rows: enough for wgmma.
_ROWS_64 = """\
    128: (FullTiles(64, 16, 4, 2), FullTiles(32, 64, 4, 2)),
    256: (FullTiles(64, 16, 4, 2), FullTiles(32, 64, 8, 2)),
"""

# A program finds its tokens in the sorted ones by itself; the tile of a target comes from one division.
_SEARCH = (
    (BACKWARD, "@triton.jit\ndef _add_targets(", """\
@triton.jit
def _first_from(ordered, number, value):
    low = tl.zeros((), tl.int32)
    high = low + number
    while low < high:
        middle = (low + high) // 2
        less = tl.load(ordered + middle) < value
        low = tl.where(less, middle + 1, low)
        high = tl.where(less, high, middle)
    return low


@triton.jit
def _add_targets("""),
    (BACKWARD, "    low = tl.load(segments + tile)\n    high = tl.load(segments + tile + 1)\n", """\
    low = _first_from(segments, num_tokens, tile)
    high = _first_from(segments, num_tokens, tile + 1)
"""),
    (BACKWARD, "torch.sort(targets.to(torch.int32).div_(block, rounding_mode=\"floor\"), stable=True)\n", """\
torch.sort(
        torch.div(targets, block, rounding_mode="floor", out=torch.empty_like(targets, dtype=torch.int32)), stable=True
    )
"""),
    (BACKWARD, """\
    edges = torch.arange(num_tiles + 1, device=targets.device, dtype=torch.int32)
    return order, torch.searchsorted(tiles, edges, out_int32=True)
""", "    return order, tiles\n"),
)  # fmt: skip

VARIANTS = [
    Variant("as it is", ("flat", "d64", "d128", "fp32", "fp32-d256"), "the baseline of this run"),
    Variant(
        "search in backward", ("flat", "d64", "d128"),
        "three launches fewer, 20 us of the host; a program waits 3 us for its search: at d64 0.5 % slower",
        _SEARCH,
    ),
    Variant(
        "fp32 tiles, 64 rows", ("fp32", "fp32-d256"),
        "D 256: half the instructions for a score and 5.7, 1.4 KB spilled for 7.1, 3.0; D 128: forward 0.7 KB for 1.5",
        (("tuning.py", _FP32, _ROWS_64),),
    ),
    Variant("as it is", ("beauty-fp32",), "the baseline of this run", op="sampled"),
    Variant(
        "bf16x6", ("beauty-fp32",), "twice the rate, but a tenth more spills and a quarter more instructions: as it is",
        # The interpreter does not know it.
        (("kernels/sampled_state.py", 'return "tf32x3" if',
          'return ("tf32x3" if self.hidden.device.type != "cuda" else "bf16x6") if'),), "sampled",
    ),
]  # fmt: skip
