"""Bring back the committed params.yaml, after experiments that left their settings in it.

`dvc exp run -S` writes its values into params.yaml, where they stay. This restores the file as git's current commit
has it, edited, staged or deleted, and prints the values that change back. Presets that are not committed, such as those
of `cutrec tune`, are kept. All other files stay as they are.

Example:
    uv run cutrec reset
"""

from jsonargparse import ArgumentParser, Namespace

from cutrec.committed import PARAMS, committed_params, restore, uncommitted_presets
from cutrec.nested import flatten
from cutrec.presets import write_preset


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options."""


def run(options: Namespace) -> None:
    """Restore params.yaml and print what changed."""
    committed = committed_params()
    own = uncommitted_presets(PARAMS.read_bytes(), committed) if PARAMS.is_file() else {}
    try:
        lines = restore(committed)
    finally:
        for name, preset in own.items():
            write_preset(PARAMS, name, flatten(preset), overwrite=True, comment="Kept by `cutrec reset`.")
    print(*(lines or [f"{PARAMS} already holds the committed parameters"]), sep="\n")
    if own:
        print(f"kept, although not committed: presets.{', presets.'.join(own)}")
