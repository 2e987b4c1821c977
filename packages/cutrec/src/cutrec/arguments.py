"""Command lines: parsers whose errors are one line."""

import re
from argparse import ArgumentError, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cutrec.errors import UsageError

MOST = 1_000_000
"""Of items per list, of users in a batch, of resamples."""


def make_parser(description: str, **options: Any) -> ArgumentParser:
    """A parser whose help keeps the line breaks of a docstring and whose errors are exceptions."""
    text = description.replace("``", "").strip()
    return ArgumentParser(description=text, formatter_class=RawDescriptionHelpFormatter, exit_on_error=False, **options)


def parse(parser: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse a command line with a parser of `make_parser`; None takes the arguments of the process.

    Raises:
        UsageError: one line that names the argument.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        message = " ".join(str(error).removeprefix("argument ").split())
        raise UsageError(f"{message}; --help lists the options") from None


def positive_int(value: str | int) -> int:
    """The type of an option that takes a whole number from 1 to `MOST`."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", str(value), re.ASCII) or int(value) > MOST:
        raise ArgumentTypeError(f"found {value}, allowed: 1 to {MOST:,}")
    return int(value)
