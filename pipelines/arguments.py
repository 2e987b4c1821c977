"""Converters of options for argparse, which commands on rented machines use in place of jsonargparse."""

import argparse
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)


def some_of(known: Iterable[Value]) -> Callable[[str], list[Value]]:
    """A converter of known values that are separated by commas."""
    by_name = {str(value): value for value in known}

    def convert(text: str) -> list[Value]:
        try:
            return [by_name[name] for name in text.split(",")]
        except KeyError:
            allowed = f"{', '.join(by_name)}, separated by commas"
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed: {allowed}") from None

    return convert


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """A converter of numbers above 0; infinity is one of them."""

    def convert(text: str) -> Number:
        with suppress(ValueError):
            if (value := kind(text)) > 0:
                return value
        words = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: {words} above 0")

    return convert
