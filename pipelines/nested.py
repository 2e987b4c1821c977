"""Nested settings and their one-line forms: dotted keys, and values as YAML and ``-S KEY=VALUE`` write them."""

from __future__ import annotations

from typing import Any


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def as_yaml(value: object) -> str:
    """A scalar or a list of scalars on one line, as YAML and ``-S`` read it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_yaml(entry) for entry in value) + "]"
    return str(value)
