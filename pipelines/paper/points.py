"""The points of the paper's tables and of its search grid, read from the section ``grid`` of params.yaml.

A point is the nested mapping that `cutrec.config.from_mapping` takes. It holds what the table, its row and the paper's
own settings determine, and nothing else. This module does not import torch.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from cutrec import config
from cutrec.config import ConfigError
from cutrec.errors import UsageError
from cutrec.nested import as_override, as_yaml, flatten, merged
from cutrec.reporting.result import point_fields
from cutrec.reporting.standard_settings import is_used, sce_sizes
from rec_models.losses.registry import LOSSES

_NAMED = frozenset(
    {"model", "loss", "negatives.sampling", "negatives.sharing", "dataset", "batch_size", "max_seq_len",
     "num_negatives", "paper_faithful"}
)  # fmt: skip
"""Keys that the name of an experiment always contains."""


Sharing = Literal["none", "tile", "batch"]
_DERIVED_FROM = ("model", "loss", "batch_size", "max_seq_len")
"""The paper derives other settings from these."""


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
    """Nested overrides of params.yaml."""
    dataset: str
    """The data set's name in the table, also if a synthetic log replaces it."""
    params: config.Config
    """The overrides on top of the defaults."""
    name: str
    """Readable and unique among points, see `experiment_name`."""


def experiment_name(point: config.Config, extra: Mapping[str, Any] | None = None) -> str:
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


def table_numbers(texts: Sequence[str] | None) -> list[int]:
    """The values of ``--table``; jsonargparse leaves those of an option that is given several times as text.

    Raises:
        UsageError: one of them is no number.
    """
    for text in texts or []:
        if not text.isdigit():
            raise UsageError(f"--table: found {text!r}, allowed: a whole number")
    return [int(text) for text in texts or []]


def table_points(
    values: dict[str, Any], tables: Sequence[int] = (), *, datasets: Sequence[str] = (), **choices: Unpack[Choices]
) -> list[GridPoint]:
    """The points of the paper's tables, in the order of the tables.

    A table names its model, loss and sampling once; a point is one line: ``gowalla 512x256 511`` is the data set, the
    batch size x the sequence length, and the negatives per token if the loss draws any.

    Args:
        values: the mapping of params.yaml, with its ``grid``.
        tables: numbers of the tables; all if empty.
        datasets: names of the data sets; all if empty.
        choices: see `Choices`.

    Returns:
        One point for each row of the paper's tables; two rows repeat the point of another row.

    Raises:
        ConfigError: a table, a data set or a line that does not exist, or a point that contradicts itself.
    """
    known = values["grid"]["tables"]
    rows = []
    for number in tables or known:
        if number not in known:
            raise ConfigError(f"table: found {number}, allowed: {', '.join(map(str, known))}")
        table = known[number]
        shared: dict[str, Any] = {"model": table["model"], "loss": table["loss"]}
        if "sampling" in table:
            shared["negatives"] = {"sampling": table["sampling"]}
        rows += [(number, shared | _read_line(number, line)) for line in table["points"]]
    in_tables = list(dict.fromkeys(row["dataset"] for _, row in rows))
    for name in datasets:
        if name not in in_tables:
            raise ConfigError(f"dataset: found {name!r}, allowed in these tables: {', '.join(in_tables)}")
    return [_point(values, number, row, choices) for number, row in rows if not datasets or row["dataset"] in datasets]


def search_points(
    values: dict[str, Any], *, model: str, loss: str, dataset: str, **choices: Unpack[Choices]
) -> list[GridPoint]:
    """The paper's search grid: all batch sizes x all lengths and, for a sampled loss, x all numbers of negatives.

    Raises:
        ConfigError: an unknown data set, or a point that contradicts itself.
    """
    grid = values["grid"]
    known = sorted({line.split()[0] for table in grid["tables"].values() for line in table["points"]})
    if dataset not in known:
        raise ConfigError(f"dataset: found {dataset!r}, allowed: {', '.join(known)}")
    axes = ["batch_size", "max_seq_len"]
    if loss in LOSSES and LOSSES[loss].sampled and not LOSSES[loss].fixed_negatives:
        axes.append("num_negatives")
    sizes = itertools.product(*(grid["search"][axis] for axis in axes))
    shared = {"model": model, "loss": loss, "dataset": dataset}
    return [_point(values, 0, shared | dict(zip(axes, chosen, strict=True)), choices) for chosen in sizes]


def distinct(points: Sequence[GridPoint]) -> list[GridPoint]:
    """The points without those that repeat another row's point.

    Raises:
        ConfigError: two different points have the same name.
    """
    by_name: dict[str, GridPoint] = {}
    for point in points:
        other = by_name.setdefault(point.name, point)
        if other.values != point.values:
            changed = sorted(set(overrides(point)) ^ set(overrides(other)))
            raise ConfigError(f"two points are named {point.name}: they differ in {', '.join(changed)}")
    return list(by_name.values())


def overrides(point: GridPoint) -> list[str]:
    """The point as ``-S`` takes it: ``key=value`` with dotted keys."""
    return [f"{key}={as_override(value)}" for key, value in flatten(point.values).items()]


def without_use(found: Sequence[config.Config], extra: dict[str, Any]) -> list[str]:
    """A line for each (nested) override that has no effect at some of the points, such as negatives with CE."""
    lines = []
    for key, value in flatten(extra).items():
        if idle := [point for point in found if not is_used(key, point)]:
            kinds = ", ".join(dict.fromkeys(map(_kind, idle)))
            of = f"{len(idle)} of {len(found)} points"
            lines.append(f"-S {key}={as_yaml(value)} changes nothing in {of}: those of {kinds}")
    return lines


def load(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The mapping of params.yaml with its ``grid``.

    Raises:
        ConfigError: the file does not exist, is not YAML or has no grid.
    """
    values = config.read_yaml(path)
    if not isinstance(values.get("grid"), dict) or not set(values["grid"]) >= {"settings", "search", "tables"}:
        raise ConfigError(f"{path}: grid: allowed: a section with settings, search and tables; git brings it back")
    return values


def _kind(point: config.Config) -> str:
    """How the name of an experiment begins: model, loss, sampling."""
    fields = point_fields(point)
    return "-".join(fields[key] for key in ("model", "loss", "sampling") if fields[key])


def _read_line(number: int, line: str) -> dict[str, Any]:
    found = re.fullmatch(r"(\S+) (\d+)x(\d+)(?: (\d+))?", line)
    if found is None:
        raise ConfigError(f"grid.tables.{number}: found {line!r}, allowed: DATASET BATCHxLENGTH [NEGATIVES]")
    dataset, batch_size, max_seq_len, negatives = found.groups()
    row = {"dataset": dataset, "batch_size": int(batch_size), "max_seq_len": int(max_seq_len)}
    return row | ({"num_negatives": int(negatives)} if negatives else {})


def _point(values: dict[str, Any], table: int, row: dict[str, Any], choices: Choices) -> GridPoint:
    """A row with the paper's settings and the options of the command."""
    nested = _with_paper_settings(values, row, choices)
    params = config.from_mapping(nested)
    return GridPoint(table, nested, row["dataset"], params, experiment_name(params, choices.get("extra")))


def _with_paper_settings(file: Mapping[str, Any], row: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """A row of a table as the nested overrides of params.yaml that train it as the paper does.

    Raises:
        ConfigError: negatives are to be shared in the paper's own code, or a value is not allowed.
    """
    sharing, faithful = choices.get("sharing", "none"), choices.get("paper_faithful", False)
    extra, twin = choices.get("extra", {}), choices.get("twin", False)
    # What the paper derives from these follows the values of the command line.
    named = config.from_mapping({key: extra.get(key, row[key]) for key in _DERIVED_FROM})
    # The preset's values are written out, and the preset is switched off: another one in the params.yaml of the
    # checkout would contradict the point.
    settings = merged(file["grid"]["settings"], {"preset": config.NO_PRESET}, file["presets"][f"paper_{named.model}"])
    options: dict[str, Any] = {"paper_faithful": faithful}
    if LOSSES[named.loss].sampled:
        if faithful and sharing != "none":
            raise ConfigError(f"sharing: found {sharing!r}, allowed: none with --faithful, the paper shares nothing")
        options["negatives"] = {"sampling": "uniform", "sharing": sharing}
    if named.loss == "sce":
        sizes = sce_sizes(named.batch_size, named.max_seq_len)
        options["losses"] = {"sce": {"buckets": sizes.buckets, "bucket_size_x": sizes.bucket_size_x}}
    dataset = row["dataset"]
    if twin:
        dataset = f"twin:{dataset}" + ("" if twin is True or twin == 1 else f"@{twin:g}")
    return merged(settings, options, row, {"dataset": dataset}, extra)
