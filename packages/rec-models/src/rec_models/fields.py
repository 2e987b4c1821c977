"""How the settings of this package are declared: strict frozen dataclasses whose types carry the allowed ranges.

Strict means: no text for a number, no bool for a whole number, no None where the type has none. pydantic raises
`pydantic.ValidationError`, a ValueError that names the field. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

STRICT = ConfigDict(strict=True, extra="forbid")

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Far above what anybody trains with, and far below what overflows the sizes of tensors or takes a step for ever."""
Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


def one_of(names: Collection[str]) -> BeforeValidator:
    """Allow the names of a registry, which may grow after its users have been imported."""

    def check(name: object) -> object:
        if name not in list(names):
            raise ValueError(f"allowed: {' | '.join(names)}")
        return name

    return BeforeValidator(check)


def in_short(error: Exception) -> str:
    """The first thing that is wrong, in one line, if pydantic found it; any other error as it is."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    said = str(first.get("ctx", {}).get("error", first["msg"]))
    return f"{first['loc'][0]}: found {first['input']!r}, {said}" if first["loc"] else said
