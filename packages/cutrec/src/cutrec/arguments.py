"""Command lines: parsers whose errors are one line."""

import os
import re
from argparse import ArgumentError, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from cutrec.errors import UsageError
from cutrec.paths import checkout_root

Value = TypeVar("Value")
MOST = 1_000_000
"""Of items per list, of users in a batch, of resamples, of steps."""


def make_parser(description: str, **options: Any) -> ArgumentParser:
    """A parser whose help keeps the line breaks of a docstring, and whose errors are exceptions; no abbreviations.

    A last section ``Example:`` or ``Examples:`` of the docstring stands at the end of the help, below the options.
    """
    text, *examples = re.split(r"^(?=Examples?:$)", description.replace("``", ""), maxsplit=1, flags=re.MULTILINE)
    options |= {"exit_on_error": False, "allow_abbrev": False, "formatter_class": RawDescriptionHelpFormatter}
    return ArgumentParser(description=text.strip(), epilog="".join(examples) or None, **options)


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


def whole_from(least: int, most: int = MOST) -> Callable[[str | int], int]:
    """The type of an option that takes a whole number from `least` to `most`."""

    def convert(value: str | int) -> int:
        if not re.fullmatch(r"0*[0-9]{1,10}", str(value), re.ASCII) or not least <= int(value) <= most:
            raise ArgumentTypeError(f"found {value}, allowed: {least} to {most:,}")
        return int(value)

    return convert


positive_int = whole_from(1)


def positive_float(value: str | float) -> float:
    """The type of an option that takes a number above 0; infinity is one."""
    with suppress(ValueError):
        if (number := float(value)) > 0:
            return number
    raise ArgumentTypeError(f"found {value}, allowed: a number above 0")


def share(value: str | float) -> float:
    """The type of an option that takes a number between 0 and 1, both excluded."""
    with suppress(ValueError):
        if 0 < (number := float(value)) < 1:
            return number
    raise ArgumentTypeError(f"found {value}, allowed: a number between 0 and 1")


def local_path(text: str | Path) -> str:
    """The type of an option that takes a path relative to the user's folder, or an address.

    Commands run in the root of the checkout, so the path is converted to one from there.
    """
    root = checkout_root()
    if isinstance(text, Path) or root in (None, Path.cwd()):  # a default is relative to the root
        return str(text)
    return text if text == "-" or "://" in text or Path(text).is_absolute() else os.path.relpath(text, root)


def local_file(text: str | Path) -> Path:
    """The same, of a file or a folder of this machine."""
    return Path(local_path(text))


def some_of(known: Iterable[Value]) -> Callable[[str], list[Value]]:
    """The type of an option that takes some of the known values, separated by commas."""
    by_name = {str(value): value for value in known}

    def convert(text: str | list[Value]) -> list[Value]:
        if isinstance(text, list):  # the default
            return text
        try:
            return [by_name[name] for name in text.split(",")]
        except KeyError:
            allowed = f"{', '.join(by_name)}, separated by commas"
            raise ArgumentTypeError(f"found {text!r}, allowed: {allowed}") from None

    return convert
