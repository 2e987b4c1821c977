"""Strict reading: a YAML file to nested frozen dataclasses, one clear line for whatever is wrong.

`cutrec.config` says what the keys are; here is how they are checked. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal


class ParamsError(ValueError):
    """Something in the parameters is unknown, of a wrong type, out of range or in contradiction to something else."""


def require(key: str, found: object, holds: bool, allowed: str) -> None:
    """Refuse a value.

    Args:
        key: dotted, as in the file.
        found: the value.
        holds: whether it is allowed.
        allowed: what is, in words.

    Raises:
        ParamsError: it is not.
    """
    if not holds:
        raise ParamsError(f"{key}: found {found!r}, allowed: {allowed}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read by the library and the YAML version that DVC reads it with."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file, run from the root of the repository") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: found {type(values).__name__}, allowed: a mapping of keys to values")
    return values


def build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """An instance of a dataclass from a mapping, its sections built likewise.

    Strict where general parsers are lenient (jsonargparse takes null for a whole number and the text "yes" for true).

    Args:
        cls: a dataclass; its fields are plain types, unions of them, tuples or further dataclasses.
        values: the mapping; keys left out take their defaults.
        prefix: of the keys in messages, with its dot.

    Raises:
        ParamsError: an unknown key or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            guess = f" (did you mean {prefix}{near[0]}?)" if near else ""
            raise ParamsError(f"{name}: unknown key{guess}, allowed: {', '.join(prefix + known for known in hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            section = typing.cast(type, hint)
            known = ", ".join(entry.name for entry in dataclasses.fields(section))
            require(name, value, isinstance(value, dict), f"a section with the keys {known}")
            arguments[key] = build(section, value, f"{name}.")
        else:
            require(name, value, _accepts(hint, value), _describe(hint))
            arguments[key] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def _accepts(hint: Any, value: object) -> bool:
    """Whether a value is of a field's type as it stands: no text taken for a number, no null where none is allowed."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(choice, value) for choice in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, list) and value != [] and all(_accepts(typing.get_args(hint)[0], v) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A field's type in words."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in typing.get_args(hint))
    if origin is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(hint))
    if origin is tuple:
        return f"a list, each entry {_describe(typing.get_args(hint)[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
    return words[hint]
