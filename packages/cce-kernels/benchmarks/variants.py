"""Ideas for the kernels as edits of their text: each is timed against the package as it is (try_variants.py).

An idea that wins is entered in the package and leaves this list; one that loses leaves it too. TUNING.md keeps both.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/cce_kernels"
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


_SMALL = ("flat", "fitted-d64", "fitted-d256", "fp32", "fp32-d256")
_PART_COST = "(1 + 0.01 * splits)"
VARIANTS = [
    Variant("as it is", _SMALL, "the baseline of every run"),
    Variant("no split", _SMALL, "64 programs forward on 132 multiprocessors: forward takes twice as long",
            (("tuning.py", '    if device.type != "cuda":\n        return 1\n    slots', "    return 1\n    slots"),)),
    Variant("a part costs nothing", _SMALL, "as fast: more parts, filled a little better",
            (("tuning.py", _PART_COST, "1"),)),
    Variant("a part costs 5 %", _SMALL, "as fast", (("tuning.py", _PART_COST, "(1 + 0.05 * splits)"),)),
]  # fmt: skip
