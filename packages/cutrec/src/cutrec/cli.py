"""The command line ``cutrec``. A command is a module of `cutrec.commands` and one entry of `COMMANDS`."""

from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from cutrec.arguments import make_parser, parse
from cutrec.commands import (
    backtest,
    compare,
    describe,
    drift,
    export,
    forget,
    index,
    plan,
    promote,
    recommend,
    reset,
    serve,
    tune,
    update,
)
from cutrec.console import run_and_exit
from cutrec.paths import checkout_root

DESCRIPTION = """\
Train sequential recommenders on large catalogues and use them.

The pipeline itself (download, split, train, evaluate, report) is run by `dvc repro` and `dvc exp run`.
Commands work in every folder of a checkout; `cutrec COMMAND --help` explains one.

Examples:
    uv run cutrec describe -S dataset=/data/events.parquet
    uv run cutrec recommend --k 20
    uv run cutrec compare exact sampled"""
COMMANDS = {
    "describe": describe,
    "recommend": recommend,
    "serve": serve,
    "index": index,
    "update": update,
    "compare": compare,
    "backtest": backtest,
    "drift": drift,
    "promote": promote,
    "plan": plan,
    "tune": tune,
    "export": export,
    "forget": forget,
    "reset": reset,
}
"""Modules with a docstring (the help text), ``add_arguments(parser)`` and ``run(options)``."""


def main() -> None:
    """Run the command that the process was started with; ends the process."""
    run_and_exit(execute)


def execute(arguments: Sequence[str] | None = None) -> None:
    """Run a command in the root of the checkout, given its name and options; None takes those of the process.

    Raises:
        UsageError: the command line is wrong.
        ValueError: the command cannot do its work; the message is one line.
    """
    parser = make_parser(DESCRIPTION, prog="cutrec")
    subcommands = parser.add_subcommands(dest="command", required=True)
    for name, module in COMMANDS.items():
        description = str(module.__doc__)
        command = make_parser(description)
        module.add_arguments(command)
        subcommands.add_subcommand(name, command, help=description.splitlines()[0])
    options = parse(parser, arguments)
    with chdir(checkout_root() or Path()):
        COMMANDS[options.command].run(options[options.command])


if __name__ == "__main__":
    main()
