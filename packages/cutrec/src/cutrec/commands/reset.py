"""Bring back the committed params.yaml, after experiments that left their settings in it.

`dvc exp run -S` writes its values into params.yaml, where they stay. This restores the file as git's current commit
has it, edited, staged or deleted, prints the values that change back, and leaves all other files alone.

Example:
    uv run cutrec reset
"""

from dataclasses import asdict

from jsonargparse import ArgumentParser, Namespace

from cutrec.committed import PARAMS, committed_params, restore
from cutrec.config import Config, read_yaml
from cutrec.errors import ConfigError, StageError
from cutrec.nested import as_yaml, flatten


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options."""


def run(options: Namespace) -> None:
    """Restore params.yaml and print what changed."""
    try:
        committed = committed_params()
    except StageError as error:
        raise StageError(f"{error}; {_cure_without_git()}") from None
    lines = restore(committed)
    print(*(lines or [f"{PARAMS} already holds the committed parameters"]), sep="\n")


def _cure_without_git() -> str:
    """What helps where git cannot: the values that a shipped params.yaml holds are the defaults."""
    try:
        found = flatten(read_yaml(PARAMS))
    except ConfigError:
        return f"copy {PARAMS} from where this folder came from"
    usual = flatten(asdict(Config()))
    changed = [
        f"{key}={as_yaml(usual[key])}" for key in usual if key in found and as_yaml(found[key]) != as_yaml(usual[key])
    ]
    return f"to go back to the defaults, set {', '.join(changed)}" if changed else "it holds the defaults"
