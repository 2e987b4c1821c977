"""Writing a preset into params.yaml, whose other lines and comments stay as they are."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from cutrec.config import preset_values, read_yaml
from cutrec.config_point import NO_PRESET
from cutrec.errors import ConfigError
from cutrec.nested import flatten, nest
from cutrec.outputs import atomic_file, read_json

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""Names that ``-S preset=`` and ``-S presets.NAME.KEY=`` take without quotes."""


def refuse_preset_name(path: Path, name: str, *, overwrite: bool) -> None:
    """Refuse a name that is no name, or that another preset has.

    Raises:
        ConfigError: naming what is allowed.
    """
    if not _NAME.fullmatch(name) or name == NO_PRESET:
        raise ConfigError(
            f"--name: found {name!r}, allowed: a letter, then letters, digits and _, other than {NO_PRESET}"
        )
    if not overwrite and name in (read_yaml(path).get("presets") or {}):
        raise ConfigError(f"--name: found {name}, which {path} has already, allowed: another name, or --overwrite")


def is_as_recorded(path: Path, name: str, record: Path) -> bool:
    """Whether a params.yaml has a preset as a JSON file ``{name: values}`` says that it was written, flat."""
    preset = (read_yaml(path).get("presets") or {}).get(name)
    return isinstance(preset, dict) and record.is_file() and read_json(record) == {name: flatten(preset)}


def write_preset(path: Path, name: str, values: Mapping[str, Any], *, overwrite: bool) -> None:
    """Add a preset to a params.yaml, as the first one, or replace the one with this name.

    The file is replaced at once: another process reads the old or the new one.

    Args:
        path: the params.yaml.
        name: of the preset.
        values: dotted keys and their values.
        overwrite: replace a preset with this name.

    Raises:
        ConfigError: the name or a value is not allowed, or the name is taken.
    """
    with atomic_file(path.resolve()) as part:
        refuse_preset_name(path, name, overwrite=overwrite)
        text = with_preset(path.read_text(encoding="utf-8"), name, values, "Written by `cutrec tune`.")
        part.write_text(text, encoding="utf-8")


def with_preset(text: str, name: str, values: Mapping[str, Any], comment: str) -> str:
    """The text of a params.yaml with a preset, as `write_preset` writes it; the comment is that above a new one.

    Raises:
        ConfigError: a value is not allowed.
    """
    preset_values(name, nest(values))
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    root = yaml.load(text)
    presets = root.setdefault("presets", CommentedMap())
    preset = _commented(nest(values))
    if name in presets:
        _keep_comment_below(presets[name], preset)
        presets[name] = preset
    else:
        presets.insert(0, name, preset)
        presets.yaml_set_comment_before_after_key(name, before=comment, indent=2)
    written = io.StringIO()
    yaml.dump(root, written)
    return written.getvalue()


def _commented(values: Mapping[str, Any]) -> CommentedMap:
    """A nested mapping that can carry comments."""
    entries = values.items()
    return CommentedMap({key: _commented(value) if isinstance(value, dict) else value for key, value in entries})


def _keep_comment_below(old: CommentedMap, new: CommentedMap) -> None:
    """Move the comment behind a section, which ruamel keeps with its last value, to the section that replaces it."""
    ends = []
    for section in (old, new):
        while isinstance(section[(last := list(section)[-1])], CommentedMap):
            section = section[last]
        ends.append((section, last))
    (old, below), (new, last) = ends
    if below in old.ca.items:
        new.ca.items[last] = old.ca.items[below]
