"""What pydantic found wrong with a configuration, as one line: the key, what was found and what is allowed."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rec_data.stated import stated_value
from rec_models.errors import SettingsError


def one_line(
    error: ValidationError, values: Mapping[str, Any], root: type, keys: Collection[str], auto: Collection[str] = ()
) -> str:
    """The first thing that is wrong with the nested `values` as the user wrote them.

    A ValueError raised by a validator of a package reads ``allowed: ...``; a `SettingsError` names the settings that
    contradict each other.
    The error is of validating them against the dataclass `root`; `keys` are all dotted keys there are, and the value
    ``auto`` is allowed for those in `auto` as well.
    """
    first = error.errors(include_url=False)[0]
    if first["type"] == "unexpected_keyword_argument":
        return unknown_key(".".join(str(part) for part in first["loc"]), keys)
    hint: Any = root
    found: Any = values
    path: list[str] = []
    for part in first["loc"]:  # behind the field pydantic adds the branch of a union or the place in a list
        if not dataclasses.is_dataclass(hint):
            break
        hint, found = typing.get_type_hints(hint, include_extras=True)[str(part)], found[part]
        path.append(str(part))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return cause.with_keys(full_names(keys))
    key = ".".join(path)
    is_long = isinstance(found, Mapping) and any(isinstance(value, Mapping) for value in found.values())
    if isinstance(found, Mapping) and cause and not is_long:  # of a whole section, the keys that the cause names
        words = set(re.findall(r"\w+", str(cause)))
        found = {name: value for name, value in found.items() if name in words} or found
    shown = "" if is_long and cause else f"found {found!r}, "
    return f"{key}: {shown}{cause or f'allowed: {_describe(hint)}'}{', or auto' if key in auto else ''}"


def full_names(keys: Collection[str]) -> dict[str, str]:
    """The dotted key of each last part of one, such as ``train.optimizer`` of ``optimizer``."""
    return {key.rpartition(".")[2]: key for key in keys}


def unknown_key(name: str, keys: Collection[str]) -> str:
    """The line about an unknown key, with the nearest known key or section anywhere in the tree."""
    section = name.rpartition(".")[0]
    prefix = f"{section}." if section else ""
    beside = dict.fromkeys(prefix + key[len(prefix) :].partition(".")[0] for key in keys if key.startswith(prefix))
    return f"{name}: unknown key{guess(name, keys)}, allowed: {', '.join(beside)}"


def guess(name: str, keys: Collection[str]) -> str:
    """``(did you mean ...?)`` with the known key or section that is most like an unknown one, if one is."""
    section, _, last = name.rpartition(".")
    parents = {key.rpartition(".")[0] for key in keys} - {"", section}

    def likeness(key: str) -> tuple[float, float]:
        own = key.rpartition(".")[2]
        initials = "".join(word[:1] for word in own.split("_"))  # lr
        alike = max(difflib.SequenceMatcher(None, last, own).ratio(), float(last == initials))
        return alike, difflib.SequenceMatcher(None, name, key).ratio()

    nearest = max([*keys, *parents], key=likeness)
    return f" (did you mean {nearest}?)" if likeness(nearest)[0] >= 0.6 else ""


_CONSTRAINTS = ("ge", "gt", "le", "lt", "allow_inf_nan")
_WORDS = {int: "a whole number", float: "a number", str: "a text"}


def _describe(hint: Any) -> str:
    """A field's type and range in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return f"a section with the keys {', '.join(entry.name for entry in dataclasses.fields(hint))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin is tuple:
        return f"a list, each entry {_describe(arguments[0])}"
    if origin is Annotated:
        return _with_range(_describe(arguments[0]), arguments[1:])
    if hint is bool:
        return f"{stated_value(True)} or {stated_value(False)}"
    return stated_value(None) if hint is types.NoneType else _WORDS[hint]


def _with_range(words: str, metadata: Iterable[Any]) -> str:
    """A type in words and its constraints, such as ``a whole number from 1``."""
    limits: dict[str, Any] = {}
    for entry in metadata:
        for constraint in entry.metadata if isinstance(entry, FieldInfo) else ():
            limits |= {name: getattr(constraint, name) for name in _CONSTRAINTS if hasattr(constraint, name)}
    if limits.pop("allow_inf_nan", True) is False:
        words = words.replace("a number", "a finite number")
    if {"gt", "lt"} <= set(limits):
        return f"{words} between {limits['gt']} and {limits['lt']}"
    signs = {"ge": "from", "gt": "above", "le": "to", "lt": "to below"}
    return " ".join([words, *(f"{sign} {limits[name]}" for name, sign in signs.items() if name in limits)])
