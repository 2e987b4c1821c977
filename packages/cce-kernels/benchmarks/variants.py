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


# None waits to be timed. The baseline is timed at the points of the ideas beside it.
VARIANTS = [Variant("as it is", ("beauty-fp32",), "the baseline of every run", op="sampled")]
