"""Checks of single options, for every module that takes some. All errors are ValueErrors that name the option."""

import math
import operator
from typing import Any

import torch
from torch import Tensor


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: found {value!r}, allowed: {', '.join(allowed)}")


def plain_integer(value: Any) -> Any:
    """What counts as an integer by `operator.index` (numpy's do) as an `int`; anything else, and a tensor, as it is.

    Only the device knows what a tensor holds.
    """
    # torch.compile traces integers that change as symbols.
    if isinstance(value, int | torch.SymInt | Tensor) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def check_integer(name: str, value: object, low: int, end: int) -> None:
    """Refuse what is no integer in [low, end). A symbolic one is: torch.compile traces sizes that change."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or not low <= value < end:
        raise ValueError(f"{name}: found {value!r}, allowed: an integer in [{low}, {end})")


def plain_flag(name: str, value: object) -> bool:
    """A `bool`, or numpy's, as a `bool`; anything else is refused, for almost all of it is true, the word False too."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # numpy's by name, for torch does without numpy
        return bool(value)
    raise ValueError(f"{name}: found {value!r}, allowed: True, False")


def is_number(value: object) -> bool:
    """Whether it is a finite number of Python's, or one that torch.compile traces."""
    known = isinstance(value, int | float | torch.SymInt | torch.SymFloat) and not isinstance(value, bool)
    return known and -math.inf < value < math.inf  # type: ignore[operator]
