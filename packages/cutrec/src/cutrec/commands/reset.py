"""Bring back the committed params.yaml, after experiments that left their settings in it.

`dvc exp run -S` writes its values into params.yaml, where they stay. This restores the file as git's current commit
has it, edited, staged or deleted, and prints the values that change back. Presets that are not committed, such as those
of `cutrec tune`, are kept. All other files stay as they are.

Example:
    uv run cutrec reset
"""

import sys

from jsonargparse import ArgumentParser, Namespace

from cutrec.committed import committed_params, differences, uncommitted_presets, unstage
from cutrec.errors import ConfigError
from cutrec.nested import flatten
from cutrec.outputs import atomic_file
from cutrec.paths import PARAMS
from cutrec.presets import with_preset


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options."""


def run(options: Namespace) -> None:
    """Restore params.yaml and print what changed.

    The file is replaced at once, because git can miss an edit by DVC that keeps its length, and under its lock: a
    preset that `cutrec tune` writes meanwhile is kept.
    """
    committed = committed_params()
    kept = []
    with atomic_file(PARAMS.resolve()) as part:
        found = PARAMS.read_bytes() if PARAMS.is_file() else None
        part.write_bytes(committed)
        for name, preset in uncommitted_presets(found or b"", committed).items():
            try:
                text = with_preset(part.read_text("utf-8"), name, flatten(preset), "Kept by `cutrec reset`.")
            except ConfigError as error:
                print(f"note: a preset is not kept: {error}", file=sys.stderr)
            else:
                part.write_text(text, "utf-8")
                kept.append(f"presets.{name}")
    unstage()
    changes = differences(found or b"", committed).items()
    lines = [f"{key}: {before} -> {after}" for key, (before, after) in changes]
    if found is None:
        lines = [f"{PARAMS} was missing"]
    print(*(lines or [f"{PARAMS} already holds the committed parameters"]), sep="\n")
    if kept:
        print(f"kept, although not committed: {', '.join(kept)}")
