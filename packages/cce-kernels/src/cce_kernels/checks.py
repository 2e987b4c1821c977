"""Checks of single options. All errors are ValueErrors that name the option."""

import math
import operator
from typing import Any

import torch
from torch import Tensor


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a string that is not among the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: found {value!r}, allowed: {', '.join(allowed)}")


def plain_integer(value: Any) -> Any:
    """Convert what `operator.index` accepts (numpy's integers too) to an `int`; return anything else as it is.

    A tensor is returned as it is too: only the device knows what it holds.
    """
    # torch.compile traces integers that change as symbols.
    if isinstance(value, int | torch.SymInt | Tensor) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def check_integer(name: str, value: object, low: int, end: int) -> None:
    """Refuse anything but an integer in [low, end); torch.compile's symbolic integers count."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or not low <= value < end:
        raise ValueError(f"{name}: found {value!r}, allowed: an integer in [{low}, {end})")


def plain_flag(name: str, value: object) -> bool:
    """Convert a `bool` of Python or numpy to a `bool` and refuse anything else: the string "False" is true."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # numpy's by name, because torch works without numpy
        return bool(value)
    raise ValueError(f"{name}: found {value!r}, allowed: True, False")


def is_number(value: object) -> bool:
    """Whether it is a finite Python number, or one that torch.compile traces."""
    known = isinstance(value, int | float | torch.SymInt | torch.SymFloat) and not isinstance(value, bool)
    return known and -math.inf < value < math.inf  # type: ignore[operator]
