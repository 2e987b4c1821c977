"""Old names of commands: they work for one more release."""

import sys
from typing import NoReturn

from cutrec import cli
from cutrec.console import run_and_exit


def run(command: str) -> NoReturn:
    """Run a command of ``cutrec`` with the arguments of this process, after a note on stderr."""
    print(f"note: python -m pipelines.{command} will be removed, use: uv run cutrec {command}", file=sys.stderr)
    run_and_exit(lambda: cli.execute([command, *sys.argv[1:]]))
