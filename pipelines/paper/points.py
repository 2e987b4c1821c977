"""The points of the paper's tables and of its search grid, read from the section ``grid`` of params.yaml.

A point is a row of a table (`cutrec.config_rows`) and what a command changes about it. This module does not import
torch.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from cutrec import config
from cutrec.config_point import Config, as_written
from cutrec.config_rows import Row, row_values, rows_of
from cutrec.errors import ConfigError, UsageError
from cutrec.nested import as_override, as_yaml, flatten, merged, nest
from cutrec.paths import PARAMS
from cutrec.reporting.result import point_fields
from cutrec.reporting.standard_settings import is_used
from rec_models.losses.registry import LOSSES

_NAMED = frozenset(
    {"model", "loss", "negatives.sampling", "negatives.sharing", "dataset", "row_data", "batch_size", "max_seq_len",
     "num_negatives", "paper_faithful"}
)  # fmt: skip
"""Keys that the name of an experiment always contains."""


Sharing = Literal["none", "tile", "batch"]


class Choices(TypedDict, total=False):
    """What a command may change about the points of the paper's tables."""

    twin: bool | float
    """Take synthetic logs of the data sets' published shapes; a number is their scale."""
    sharing: Sharing
    """Which tokens share negatives; in the paper each token has its own."""
    paper_faithful: bool
    """Repeat the defects of the paper's code."""
    extra: dict[str, Any]
    """Nested values that override everything else."""


@dataclass(frozen=True)
class GridPoint:
    """A row of a table, ready to run."""

    table: int
    """Number of the paper's table; 0 for the search grid."""
    values: dict[str, Any] = field(hash=False)
    """Nested overrides of params.yaml: the row and what is changed about it."""
    decided: frozenset[str] = field(hash=False)
    """The dotted keys that the row and these changes decide."""
    dataset: str
    """The data set's name in the table, also if a synthetic log replaces it."""
    params: Config
    """The overrides on top of the defaults."""
    name: str
    """Readable and unique among points, see `experiment_name`."""
    printed: bool
    """Whether the paper prints the row; False for a data set that the paper does not have."""


def experiment_name(point: Config, extra: Mapping[str, Any] | None = None) -> str:
    """A name that DVC accepts: git does not allow ``:`` and some other characters in the names of references.

    It consists of model, loss, sampling, sharing, data set, sizes, negatives and extras.

    Args:
        point: the point to name, for example ``sasrec-cce_neg-uniform-none-twin_gowalla-1024x320-n511``.
        extra: nested overrides to append, unless the name contains the key anyway.
    """
    settings = {key: as_yaml(value) for key, value in flatten(extra or {}).items() if key not in _NAMED}
    appended = [f"{key.rpartition('.')[2]}_{value}" for key, value in settings.items()]
    fields = point_fields(point)
    dataset = fields["dataset"] if fields["twin"] is None else f"twin_{fields['dataset']}"
    if fields["twin"] not in (None, 1.0):
        dataset += f"_{fields['twin']:g}"
    parts = [
        _kind(point),
        fields["sharing"],
        dataset,
        f"{point.batch_size}x{point.max_seq_len}",
        fields["num_negatives"] and f"n{fields['num_negatives']}",
        "faithful" if point.paper_faithful else None,
        *appended,
    ]
    return re.sub(r"[^A-Za-z0-9.-]+|\.\.+", "_", "-".join(str(part) for part in parts if part)).strip("._-")


def names_of(texts: Sequence[str] | None) -> list[str]:
    """The values of an option that may be given several times, and with several values separated by commas."""
    return [name for text in texts or [] for name in text.split(",")]


def table_numbers(texts: Sequence[str] | None) -> list[int]:
    """The values of ``--table``, as `names_of`.

    Raises:
        UsageError: one of them is no number.
    """
    names = names_of(texts)
    for name in names:
        if not name.isdecimal():
            raise UsageError(f"--table: found {name!r}, allowed: a whole number")
    return [int(name) for name in names]


def table_points(
    values: dict[str, Any], tables: Sequence[int] = (), *, datasets: Sequence[str] = (), **choices: Unpack[Choices]
) -> list[GridPoint]:
    """The points of the paper's tables, in the order of the tables.

    Args:
        values: the mapping of params.yaml, with its ``grid``.
        tables: numbers of the tables; all if empty.
        datasets: names of the data sets; all if empty.
        choices: see `Choices`.

    Returns:
        One point for each row of the paper's tables, of which two repeat the point of another row, and of the further
        data sets.

    Raises:
        ConfigError: a table, a data set or a line that does not exist, or a point that contradicts itself.
    """
    every = rows_of(values["grid"])
    known = list(dict.fromkeys(row.table for row in every))
    for number in tables:
        if number not in known:
            raise ConfigError(f"table: found {number}, allowed: {', '.join(map(str, known))}")
    rows = [row for number in tables or known for row in every if row.table == number]
    in_tables = list(dict.fromkeys(row.dataset for row in rows))
    for name in datasets:
        if name not in in_tables:
            raise ConfigError(f"dataset: found {name!r}, allowed in these tables: {', '.join(in_tables)}")
    return [_point(values, row, choices) for row in rows if not datasets or row.dataset in datasets]


def search_points(
    values: dict[str, Any], *, model: str, loss: str, dataset: str, **choices: Unpack[Choices]
) -> list[GridPoint]:
    """The paper's search grid: all batch sizes x all lengths and, for a sampled loss, x all numbers of negatives.

    A point is a row of the network and the data set with another loss and other sizes.

    Raises:
        ConfigError: an unknown data set, or a point that contradicts itself.
    """
    every = rows_of(values["grid"])
    if dataset not in (known := sorted({row.dataset for row in every})):
        raise ConfigError(f"dataset: found {dataset!r}, allowed: {', '.join(known)}")
    config.from_mapping({"model": model, "loss": loss})
    row = next(row for row in every if (row.dataset, row.values["model"]) == (dataset, model))
    axes = ["batch_size", "max_seq_len"]
    if LOSSES[loss].sampled and not LOSSES[loss].fixed_negatives:
        axes.append("num_negatives")
    elif loss == "sce":
        axes.append("bucket_size_y")
    found = []
    for chosen in itertools.product(*(values["grid"]["search"][axis] for axis in axes)):
        sizes = dict(zip(axes, chosen, strict=True))
        if "bucket_size_y" in sizes:
            sizes = merged(sizes, {"losses": {"sce": {"bucket_size_y": sizes.pop("bucket_size_y")}}})
        found.append(_point(values, row._replace(table=0), choices, {"loss": loss} | sizes))
    return found


def distinct(points: Sequence[GridPoint]) -> list[GridPoint]:
    """The points without those that repeat another row's point.

    Raises:
        ConfigError: two different points have the same name.
    """
    by_name: dict[str, GridPoint] = {}
    for point in points:
        other = by_name.setdefault(point.name, point)
        ours, theirs = as_written(point.params), as_written(other.params)
        changed = [
            f"{key}={as_yaml(ours[key])}" for key in ours if ours[key] != theirs[key] and key not in config.NAMES
        ]
        if changed:
            raise ConfigError(f"two points are named {point.name}: they differ in {', '.join(changed)}")
    return list(by_name.values())


def overrides(point: GridPoint) -> list[str]:
    """The point as ``-S`` takes it: ``key=value`` with dotted keys."""
    return [f"{key}={as_override(value)}" for key, value in flatten(point.values).items()]


def without_use(found: Sequence[Config], extra: dict[str, Any]) -> list[str]:
    """A line for each (nested) override that has no effect at some of the points, such as negatives with CE."""
    lines = []
    for key, value in flatten(extra).items():
        if idle := [point for point in found if not is_used(key, point)]:
            kinds = ", ".join(dict.fromkeys(map(_kind, idle)))
            of = f"{len(idle)} of {len(found)} points"
            lines.append(f"-S {key}={as_yaml(value)} changes nothing in {of}: those of {kinds}")
    return lines


def load(path: Path = PARAMS) -> dict[str, Any]:
    """The mapping of params.yaml with its ``grid``.

    Raises:
        ConfigError: the file does not exist, is not YAML or has no grid.
    """
    values = config.read_yaml(path)
    if not isinstance(values.get("grid"), dict) or not set(values["grid"]) >= {"settings", "search", "tables"}:
        raise ConfigError(f"{path}: grid: allowed: a section with settings, search and tables; git brings it back")
    return values


def _kind(point: Config) -> str:
    """How the name of an experiment begins: model, loss, sampling."""
    fields = point_fields(point)
    return "-".join(fields[key] for key in ("model", "loss", "sampling") if fields[key])


def _point(file: Mapping[str, Any], row: Row, choices: Choices, sizes: Mapping[str, Any] | None = None) -> GridPoint:
    """A row with the options of a command; `sizes` are nested values of the search grid.

    Raises:
        ConfigError: negatives are to be shared in the paper's own code, a value is not allowed, or an override is the
            default of params.yaml, which a row replaces.
    """
    twin, extra = choices.get("twin", False), choices.get("extra", {})
    if "row" in extra:
        raise ConfigError(f"-S row: found {extra['row']!r}, allowed: --table and --dataset, which choose the rows")
    data = f"twin@{twin:g}" if twin and twin != 1 else "twin" if twin else "real"
    values: dict[str, Any] = {"row": row.name, "row_data": data, "paper_faithful": choices.get("paper_faithful", False)}
    if (sharing := choices.get("sharing", "none")) != "none":
        values["grid"] = {"settings": {"negatives": {"sharing": sharing}}}
    own = {"grid": file["grid"], "presets": file["presets"]}
    params = config.from_mapping(merged(own, values, sizes or {}, extra))
    name = experiment_name(params, merged({"losses": (sizes or {}).get("losses", {})}, extra))
    written = as_written(params)
    changed = flatten(merged(sizes or {}, extra))
    for key, value in changed.items():
        found = written.get(key, value)
        if found != _plain(value):
            raise ConfigError(
                f"{key}: found {value!r} with row={row.name}, which sets {found!r} in place of the default {value!r}, "
                f"allowed: another value, or grid.settings.{key}={value} in params.yaml"
            )
    of_row = flatten(row_values(file, row.name, changed))
    edited = [key for key, value in flatten(file).items() if key in of_row and _plain(value) != config.USUAL[key]]
    defaults = nest({key: config.USUAL[key] for key in edited})  # a row decides only what has its default
    decided = frozenset({*of_row, *changed, "paper_faithful"})
    own_values = merged(values, defaults, sizes or {}, extra)
    return GridPoint(row.table, own_values, decided, row.dataset, params, name, row.printed)


def _plain(value: Any) -> Any:
    """A value of params.yaml as a `Config` has it."""
    return tuple(value) if isinstance(value, list) else value
