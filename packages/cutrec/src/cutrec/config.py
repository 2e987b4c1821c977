"""Reading ``params.yaml`` into a `Config` (`cutrec.config_point`), its preset or row applied.

A wrong file raises `ConfigError`, whose text is one line that names the key, says what was found and what is allowed.
This module imports no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutrec.config_messages import full_names, one_line, unknown_key
from cutrec.config_point import AUTO, AUTO_KEYS, NO_PRESET, Config, as_written
from cutrec.config_rows import NO_ROW, with_row
from cutrec.errors import ConfigError
from cutrec.nested import flatten, merged, nest
from cutrec.paths import PARAMS
from rec_data.stated import stated_value
from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings, options_of
from rec_models.errors import SettingsError

NAMES = ("preset", "row", "row_data")
"""Keys that name settings and are none: the values that they decide are among the other keys of a `Config`."""

PRESET_KEYS = (
    "model", "loss", "batch_size", "max_seq_len", "num_negatives", "negatives", "backbone", "losses", "train",
)  # fmt: skip
"""What a preset may set: what training reads and no stage before it."""

_DEFAULTS = as_written(Config())
USUAL = _DEFAULTS | dict.fromkeys(AUTO_KEYS, AUTO)
"""The values of params.yaml that a preset or a row replaces."""
_ADAPTER = TypeAdapter(Config)


def load(path: Path = PARAMS) -> Config:
    """Read the parameters of the current point.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds something that is not allowed.
    """
    values = read_yaml(path)
    point = from_mapping(values)
    refuse_contradictions(point)
    for name, preset in values.get("presets", {}).items():
        if preset_values(name, preset) and name == NO_PRESET:
            raise ConfigError(f"presets.{name}: found {preset!r}, allowed: an empty section")
    return point


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read by the library and the YAML version that DVC reads it with.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds no mapping.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file in {Path.cwd()} or above it, allowed: a folder in a checkout of CutRec, where "
            "`uv run cutrec reset` brings back a deleted params.yaml"
        ) from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, allowed: a mapping of keys to values")
    return values


def from_mapping(values: dict[str, Any]) -> Config:
    """Parameters from the nested mapping that a YAML file holds; keys left out take the defaults of `Config`.

    The preset that ``preset`` names decides the keys that it holds. DVC hands over final values only, so nobody can
    tell a value that was set from one that was always there: a key with the default of params.yaml (`AUTO` for the
    `AUTO_KEYS`) makes room for the preset's value, and a third value is refused rather than silently dropped.

    A ``row`` of the paper's tables, which ``grid`` holds, decides its keys in the same way, except that a third value
    stays: the point is then another one than the paper's (`set_beside_row`).

    Raises:
        ConfigError: naming the key, what was found and what is allowed.
    """
    own = {key: value for key, value in values.items() if key not in ("grid", "presets")}
    point = _build(own)
    presets = values.get("presets", {})
    if not isinstance(presets, dict):
        raise ConfigError(f"presets: found {presets!r}, allowed: a section of presets by name")
    if point.row != NO_ROW:
        if point.preset != NO_PRESET:
            raise ConfigError(f"preset: found {point.preset!r} with row={point.row}, allowed: {NO_PRESET}")
        return _build(with_row(own, values, USUAL))
    if point.row_data != "real":
        raise ConfigError(
            f"row_data: found {point.row_data!r} with row={NO_ROW}, allowed: real; dataset=twin:NAME reads a synthetic "
            "log without a row"
        )
    if point.preset == NO_PRESET:
        return point
    if point.preset not in presets:
        names = ", ".join([NO_PRESET, *(str(name) for name in presets if name != NO_PRESET)])
        raise ConfigError(f"preset: found {point.preset!r}, allowed: {names}")
    return _build(_with_preset(own, point.preset, presets[point.preset]))


def set_beside_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a params.yaml with a row sets otherwise than the row alone: dotted key to value; nothing without a row.

    Raises:
        ConfigError: as `from_mapping`.
    """
    alone = {key: values[key] for key in (*NAMES, "paper_faithful", "grid", "presets") if key in values}
    point, usual = as_written(from_mapping(dict(values))), as_written(from_mapping(alone))
    return {key: value for key, value in point.items() if value not in (AUTO, usual[key]) and point["row"] != NO_ROW}


def preset_values(name: str, preset: object) -> dict[str, Any]:
    """What the preset with this name sets, flat: dotted key to value.

    Raises:
        ConfigError: a preset of another form, or one that sets what it may not.
    """
    if not isinstance(preset, dict):
        raise ConfigError(f"presets.{name}: found {preset!r}, allowed: a section of keys of params.yaml")
    for key in preset:
        if key not in PRESET_KEYS:
            raise ConfigError(f"presets.{name}.{key}: a preset sets what training reads: {', '.join(PRESET_KEYS)}")
    try:
        _build(preset)
    except ConfigError as error:
        raise ConfigError(f"presets.{name}.{error}") from None
    return flatten(preset)


def _build(values: dict[str, Any]) -> Config:
    """Check a nested mapping without looking at its preset."""
    if "undecided" in values:
        raise ConfigError(unknown_key("undecided", _DEFAULTS))
    concrete, undecided = _without_auto(values)
    if isinstance(section := concrete.get("split"), dict):  # YAML takes an unquoted date for one, not for a text
        concrete["split"] = {
            key: value.isoformat() if isinstance(value, date) else value for key, value in section.items()
        }
    try:
        # As JSON, because pydantic's strict mode takes a mapping for a section and a list for a tuple only there.
        point = _ADAPTER.validate_json(json.dumps(concrete, default=_as_json))
    except ValidationError as error:
        raise ConfigError(one_line(error, concrete, Config, _DEFAULTS, AUTO_KEYS)) from None
    return replace(point, undecided=tuple(key for key in AUTO_KEYS if key in undecided))


def _as_json(found: object) -> object:
    """A value from Python that JSON has no form for: a number of numpy, a path, or one that no key takes."""
    if isinstance(found, PathLike):
        return fspath(found)
    if isinstance(found, Integral):
        return int(found)
    return float(found) if isinstance(found, Real) else {"no JSON": str(found)}


def _without_auto(values: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], set[str]]:
    """A nested mapping without the `AUTO_KEYS` that are `AUTO`, and the dotted names of these."""
    concrete: dict[str, Any] = {}
    undecided: set[str] = set()
    for key, value in values.items():
        if isinstance(value, dict):
            concrete[key], below = _without_auto(value, f"{prefix}{key}.")
            undecided |= below
        elif value == AUTO and f"{prefix}{key}" in AUTO_KEYS:
            undecided.add(f"{prefix}{key}")
        else:
            concrete[key] = value
    return concrete, undecided


def _with_preset(values: dict[str, Any], name: str, preset: object) -> dict[str, Any]:
    """The values with those of a preset in place."""
    given, decided = flatten(values), preset_values(name, preset)
    for key, value in decided.items():
        usual = USUAL[key]
        found = given.get(key, usual)
        if found not in (usual, value):
            raise ConfigError(
                f"{key}: found {found!r} with preset={name}, which sets {value!r}, allowed: {usual!r} (the default: "
                f"the preset then decides); to change the preset, set presets.{name}.{key}={found}"
            )
    return merged(values, nest(decided))


def contradiction(error: SettingsError) -> ConfigError:
    """An error of a package, with the keys as they are written in params.yaml."""
    return ConfigError(error.with_keys(full_names(_DEFAULTS)))


def refuse_contradictions(point: Config) -> None:
    """Refuse at once, in any stage, what training would refuse: keys that do not go together.

    `from_mapping` lets them pass: of the points of a table, some of which a setting does not fit, the others can run.
    What depends on an undecided loss or length is refused once that is decided.

    Raises:
        ConfigError: naming a key, what was found and what is allowed.
    """
    try:
        loop = _training_settings(point)
        if "loss" not in point.undecided:
            loop.check_loss(_loss_settings(point))
    except (SettingsError, ValidationError) as error:
        cause = error if isinstance(error, SettingsError) else error.errors()[0]["ctx"]["error"]
        raise contradiction(cause) from None
    if point.split.target == "successive" and point.evaluate.reference == "test_input":
        raise ConfigError(
            "evaluate.reference: found test_input with split.target successive, whose inputs overlap, allowed: train"
        )
    window, longest = point.train.window, point.max_seq_len
    if window is not None and window > longest and not {"train.window", "max_seq_len"} & set(point.undecided):
        raise ConfigError(
            f"train.window: found {window}, allowed: {stated_value(None)} or 1 to max_seq_len = {longest}"
        )


def model_settings(point: Config) -> ModelSettings:
    """The network of a decided point."""
    _refuse_undecided(point)
    return ModelSettings(model=point.model, max_seq_len=point.max_seq_len, **vars(point.backbone))


def loss_settings(point: Config) -> LossSettings:
    """The loss of a decided point; what this loss has no use for is left out."""
    _refuse_undecided(point)
    return _loss_settings(point)


def training_settings(point: Config) -> TrainingSettings:
    """The loop of a decided point."""
    _refuse_undecided(point)
    return _training_settings(point)


def batch_settings(point: Config) -> BatchSettings:
    """What a batch of a decided point holds."""
    _refuse_undecided(point)
    return BatchSettings(batch_size=point.batch_size, window=point.train.window)


def _refuse_undecided(point: Config) -> None:
    if point.undecided:
        raise ConfigError(f"{', '.join(point.undecided)}: found auto, allowed: values (cutrec.decide.decide sets them)")


def _loss_settings(point: Config) -> LossSettings:
    return LossSettings.pick(
        point.loss,
        num_negatives=point.num_negatives,
        impl=point.impl,
        paper_faithful=point.paper_faithful,
        **options_of(point.negatives, point.losses),
    )


def _training_settings(point: Config) -> TrainingSettings:
    others = ("window", "sequences", "init_from", "tracker")  # of batches, of first weights, and it decides nothing
    loop = {name: value for name, value in vars(point.train).items() if name not in others}
    return TrainingSettings(seed=point.seed, **loop)
