"""Nested settings and their one-line forms: dotted keys, and values as YAML and ``-S KEY=VALUE`` write them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutrec.config_messages import guess
from cutrec.errors import ConfigError
from rec_data.stated import quoted_for_hydra


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; the entries of a list of mappings are numbered from 1."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        entries = value
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entries = {str(number): entry for number, entry in enumerate(value, start=1)}
        flat |= flatten(entries, f"{prefix}{key}.") if isinstance(entries, dict) else {f"{prefix}{key}": value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to the nested mapping that `cutrec.config.from_mapping` takes.

    Raises:
        ConfigError: a key is both a value and a section.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{key}: found it beside a value of {section!r}, allowed: one of the two")
        target[last] = value
    return nested


def merged(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings over one another, the last one on top."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def parse_overrides(texts: Sequence[str], option: str = "-S") -> dict[str, Any]:
    """Nested values from ``key=value`` texts as ``dvc exp run -S`` takes them, the values read as YAML.

    Values that begin with ``%``, as formats of times do, are texts as for ``-S``, although they are no YAML.

    Raises:
        ConfigError: a text without a key or without ``=``, a value that is no YAML, a key both value and section.
    """
    flat: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"{option}: found {text!r}, allowed: KEY=VALUE")
        try:
            flat[key] = value if value.startswith("%") else YAML(typ="safe").load(value)
        except YAMLError:
            raise ConfigError(f"{option}: found {text!r}, allowed: KEY=VALUE with a value that is YAML") from None
    try:
        return nest(flat)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def changed(values: Mapping[str, Any], changes: Sequence[str], allowed: Sequence[str]) -> dict[str, Any]:
    """The values of params.yaml with some keys changed, as ``dvc exp run -S`` would change them.

    `allowed` are the keys or sections that may be changed.

    Raises:
        ConfigError: a change is not ``KEY=VALUE`` with a value that is YAML, or its key may not be changed.
    """
    for change in changes:
        key, sign, _ = change.partition("=")
        if not sign or key.split(".")[0] not in allowed:
            known = " or ".join("download.KEY=..." if name == "download" else f"{name}=..." for name in allowed)
            keys = flatten(values)
            also = "" if key in keys else guess(key, [name for name in keys if name.split(".")[0] in allowed])
            raise ConfigError(f"found {change!r}{also}, allowed: {known} of params.yaml")
    return merged(values, parse_overrides(changes))


def as_yaml(value: object) -> str:
    """A scalar or a list of scalars on one line, as YAML reads it."""
    return _in_line(value, _quoted_for_yaml)


def as_override(value: object) -> str:
    """A scalar or a list of scalars as ``dvc exp run -S KEY=`` reads it: in the grammar of Hydra's overrides.

    Raises:
        ValueError: a text that Hydra changes: one with ``${`` (an interpolation) or with characters of control.
    """
    return _in_line(value, _quoted_for_hydra)


def _quoted_for_yaml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'


def _quoted_for_hydra(text: str) -> str:
    if "${" in text or not text.isprintable():
        raise ValueError(f"found {text!r}, allowed for -S: printable text without '${{'")
    return quoted_for_hydra(text)


def _in_line(value: object, quote: Callable[[str], str]) -> str:
    """A value on one line; texts that could be read as something else are quoted."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_in_line(entry, quote) for entry in value) + "]"
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return quote(value)
    return str(value)


_PLAIN = re.compile(r"[A-Za-z_/](?:[A-Za-z0-9_./:@-]*[A-Za-z0-9_./@-])?")
"""Texts that YAML and Hydra read as they are written."""
_WORDS = ("null", "true", "false", "nan", "inf")
