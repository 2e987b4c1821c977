"""Nested settings and their one-line forms: dotted keys, and values as YAML and ``-S KEY=VALUE`` write them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutrec.errors import ConfigError


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

    Raises:
        ConfigError: a text without a key or without ``=``, a value that is no YAML, a key both value and section.
    """
    flat: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"{option}: found {text!r}, allowed: KEY=VALUE")
        try:
            flat[key] = YAML(typ="safe").load(value)
        except YAMLError:
            raise ConfigError(f"{option}: found {text!r}, allowed: KEY=VALUE with a value that is YAML") from None
    try:
        return nest(flat)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def as_yaml(value: object) -> str:
    """A scalar or a list of scalars on one line, as YAML and ``-S`` read it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_yaml(entry) for entry in value) + "]"
    return str(value)
