"""The points of the paper's tables and of its search grid, from the ``grid`` of params.yaml.

A point is the nested mapping that `cutrec.config.from_mapping` takes: what the table, the line and the paper's own
settings fix, and nothing else. This module imports no torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cutrec import config
from cutrec.config import ConfigError
from cutrec.nested import as_yaml, flatten, merged
from cutrec.reporting import results_file as results
from cutrec.reporting.paper_settings import is_used, sce_sizes
from rec_models.losses import LOSSES

GRID_KEYS = frozenset({"settings", "search", "tables"})
NAMED = frozenset(
    {"model", "loss", "negatives.sampling", "negatives.sharing", "dataset", "batch_size", "max_seq_len",
     "num_negatives", "paper_faithful"}
)  # fmt: skip
"""Keys that an experiment's name always tells."""
_DERIVED_FROM = ("model", "loss", "batch_size", "max_seq_len")
Sharing = Literal["none", "tile", "batch"]


@dataclass(frozen=True)
class GridPoint:
    """One line of a table, ready to run."""

    table: int
    """Number of the paper's table; 0 for the search grid."""
    values: dict[str, Any] = field(hash=False)
    """Nested overrides of params.yaml."""
    dataset: str = ""
    """The data set's name in the table, also where its twin takes its place."""
    extra: tuple[str, ...] = ()
    """What the command line put over the point, as ``-S`` takes it."""

    @cached_property
    def params(self) -> config.Config:
        """The point with its overrides on top of the defaults.

        Raises:
            ConfigError: the point contradicts itself.
        """
        return config.from_mapping(self.values)

    @cached_property
    def name(self) -> str:
        """Readable and unique among points: model, loss, sampling, sharing, data set, sizes, negatives, extras."""
        return experiment_name(self.params, self.extra)


def experiment_name(point: config.Config, extra: Sequence[str] = ()) -> str:
    """A name that DVC accepts: git refuses ``:`` and others in names of references.

    Args:
        point: what it names, as ``sasrec-cce_neg-uniform-none-twin_gowalla-1024x320-n511``.
        extra: ``key=value`` texts that the name tells as well, unless it does already.
    """
    settings = [text.partition("=") for text in extra]
    told = [f"{key.rpartition('.')[2]}_{value}" for key, _, value in settings if key not in NAMED]
    fields = results.point_fields(point)
    dataset = fields["dataset"] if fields["twin"] is None else f"twin_{fields['dataset']}"
    if fields["twin"] not in (None, 1.0):
        dataset += f"_{fields['twin']:g}"
    parts = [
        *(fields[key] for key in ("model", "loss", "sampling", "sharing")),
        dataset,
        f"{point.batch_size}x{point.max_seq_len}",
        fields["num_negatives"] and f"n{fields['num_negatives']}",
        "faithful" if point.paper_faithful else None,
        *told,
    ]
    return re.sub(r"[^A-Za-z0-9.-]+|\.\.+", "_", "-".join(str(part) for part in parts if part)).strip("._-")


def table_points(
    values: dict[str, Any],
    tables: Sequence[int] = (),
    *,
    datasets: Sequence[str] = (),
    twin: bool | float = False,
    sharing: Sharing = "none",
    paper_faithful: bool = False,
    extra: dict[str, Any] | None = None,
) -> list[GridPoint]:
    """The points of the paper's tables, in the tables' order.

    A table names its model, loss and sampling once; a point is one line: ``gowalla 512x256 511`` is the data set, the
    batch size x the sequence length, and the negatives a token if the loss takes any.

    Args:
        values: the mapping of params.yaml, with its ``grid``.
        tables: which; none: all.
        datasets: only these; none: all.
        twin: take the data sets' synthetic twins; a number is their scale.
        sharing: who shares negatives; the paper's losses share with nobody.
        paper_faithful: repeat the defects of the paper's code.
        extra: nested values that go over everything else.

    Returns:
        One point a row of the paper's tables: two rows repeat another one's.

    Raises:
        ConfigError: a table, a data set or a line that is not there, or a point that contradicts itself.
    """
    grid = values["grid"]
    known = [int(number) for number in grid["tables"]]
    for number in tables:
        if number not in known:
            raise ConfigError(f"table: found {number}, allowed: {', '.join(map(str, known))}")
    points: list[GridPoint] = []
    for number in tables or known:
        table = grid["tables"][number]
        shared: dict[str, Any] = {"model": table["model"], "loss": table["loss"]}
        if "sampling" in table:
            shared["negatives"] = {"sampling": table["sampling"]}
        points += [GridPoint(number, shared | _read_line(number, line), line.split()[0]) for line in table["points"]]
    in_tables = list(dict.fromkeys(point.dataset for point in points))
    for name in datasets:
        if name not in in_tables:
            raise ConfigError(f"dataset: found {name!r}, allowed in these tables: {', '.join(in_tables)}")
    options = (twin, sharing, paper_faithful, extra or {})
    return [
        _complete(values, point, *options) for point in points if not datasets or point.values["dataset"] in datasets
    ]


def search_points(
    values: dict[str, Any],
    *,
    model: str,
    loss: str,
    dataset: str,
    twin: bool | float = False,
    sharing: Sharing = "none",
    paper_faithful: bool = False,
    extra: dict[str, Any] | None = None,
) -> list[GridPoint]:
    """The paper's own search: every batch size with every length with, for a sampled loss, every number of negatives.

    Args:
        values: the mapping of params.yaml, with its ``grid``.
        model: of all points.
        loss: of all points.
        dataset: of all points.
        twin: as in `table_points`.
        sharing: as in `table_points`.
        paper_faithful: as in `table_points`.
        extra: as in `table_points`.

    Raises:
        ConfigError: an unknown data set, or a point that contradicts itself.
    """
    grid = values["grid"]
    known = sorted({line.split()[0] for table in grid["tables"].values() for line in table["points"]})
    if dataset not in known:
        raise ConfigError(f"dataset: found {dataset!r}, allowed: {', '.join(known)}")
    search = grid["search"]
    draws = LOSSES[loss].sampled and loss != "bce"
    counts = search["num_negatives"] if draws else [None]
    points = []
    for batch_size, length, negatives in itertools.product(search["batch_size"], search["max_seq_len"], counts):
        sizes = {"dataset": dataset, "batch_size": batch_size, "max_seq_len": length}
        drawn = {"num_negatives": negatives} if negatives else {}
        point = GridPoint(0, {"model": model, "loss": loss, **sizes, **drawn}, dataset)
        points.append(_complete(values, point, twin, sharing, paper_faithful, extra or {}))
    return points


def distinct(points: Sequence[GridPoint]) -> list[GridPoint]:
    """Without the rows that repeat another row's point.

    Raises:
        ConfigError: two different points of one name.
    """
    by_name: dict[str, GridPoint] = {}
    for point in points:
        other = by_name.setdefault(point.name, point)
        if other.values != point.values:
            changed = sorted(set(overrides(point)) ^ set(overrides(other)))
            raise ConfigError(f"two points are named {point.name}: they differ in {', '.join(changed)}")
    return list(by_name.values())


def overrides(point: GridPoint) -> list[str]:
    """The point as ``-S`` takes it: ``key=value``, sections dotted."""
    return [f"{key}={as_yaml(value)}" for key, value in flatten(point.values).items()]


def without_use(found: Sequence[config.Config], extra: dict[str, Any]) -> list[str]:
    """A line for each override of the command line that some points have no use for: negatives for CE, for one.

    Args:
        found: the points, overrides in place.
        extra: nested values, as of `table_points`.
    """
    lines = []
    for key, value in flatten(extra).items():
        idle = [point for point in found if not is_used(key, point)]
        if idle:
            kinds = ", ".join(dict.fromkeys(_kind(point) for point in idle))
            of = f"{len(idle)} of {len(found)} points"
            lines.append(f"-S {key}={as_yaml(value)} changes nothing in {of}: those of {kinds}")
    return lines


def _kind(point: config.Config) -> str:
    """How an experiment's name begins: model, loss, sampling."""
    fields = results.point_fields(point)
    return "-".join(fields[key] for key in ("model", "loss", "sampling") if fields[key])


def load(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The mapping of params.yaml, its ``grid`` included.

    Raises:
        ConfigError: no such file, no YAML, or no grid in it.
    """
    values = config.read_yaml(path)
    if not isinstance(values.get("grid"), dict) or not set(values["grid"]) >= GRID_KEYS:
        raise ConfigError(f"{path}: grid: allowed: a section with settings, search and tables; git brings it back")
    return values


def _read_line(number: int, line: str) -> dict[str, Any]:
    found = re.fullmatch(r"(\S+) (\d+)x(\d+)(?: (\d+))?", line)
    if found is None:
        raise ConfigError(f"grid.tables.{number}: found {line!r}, allowed: DATASET BATCHxLENGTH [NEGATIVES]")
    dataset, batch_size, max_seq_len, negatives = found.groups()
    sizes = {"batch_size": int(batch_size), "max_seq_len": int(max_seq_len)}
    drawn = {"num_negatives": int(negatives)} if negatives else {}
    return {"dataset": dataset, **sizes, **drawn}


def _complete(
    file: dict[str, Any],
    point: GridPoint,
    twin: bool | float,
    sharing: Sharing,
    paper_faithful: bool,
    extra: dict[str, Any],
) -> GridPoint:
    """The point with the paper's settings and the options of the command."""
    values = point.values
    # What the paper derives from these follows them where the command line changes them.
    named = config.from_mapping({key: extra.get(key, values[key]) for key in _DERIVED_FROM})
    # Written out and the preset switched off: one in params.yaml of the checkout would contradict the point.
    settings = merged(file["grid"]["settings"], {"preset": config.NO_PRESET}, file["presets"][f"paper_{named.model}"])
    options: dict[str, Any] = {"paper_faithful": paper_faithful}
    if LOSSES[named.loss].sampled:
        if paper_faithful and sharing != "none":
            raise ConfigError(f"sharing: found {sharing!r}, allowed: none with --faithful, the paper shares nothing")
        options["negatives"] = {"sampling": "uniform", "sharing": sharing}
    if named.loss == "sce":
        sizes = sce_sizes(named.batch_size, named.max_seq_len)
        options["losses"] = {"sce": {"buckets": sizes.buckets, "bucket_size_x": sizes.bucket_size_x}}
    name = point.dataset
    if twin:
        name = f"twin:{name}" + ("" if twin is True or twin == 1 else f"@{twin:g}")
    whole = merged(settings, options, {**values, "dataset": name}, extra)
    told = tuple(f"{key}={as_yaml(value)}" for key, value in flatten(extra).items())
    complete = GridPoint(point.table, whole, point.dataset, told)
    complete.params  # noqa: B018  # a contradiction shows here
    return complete
