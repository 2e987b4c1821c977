"""The rows of the paper's tables, by name: what each decides, read from ``grid`` and ``presets`` of params.yaml."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from cutrec.errors import ConfigError
from cutrec.nested import flatten, merged, nest
from rec_data.errors import DataError
from rec_models.config import Sce
from rec_models.losses.registry import LOSSES

NO_ROW = "none"
"""The value of ``row`` that decides nothing."""


class Row(NamedTuple):
    """A row of a table."""

    name: str
    """``4/gowalla``, or ``5/gowalla-512x256`` where a table has several different rows of a data set."""
    table: int
    dataset: str
    values: dict[str, Any]
    """Nested: what the table and its line say."""
    printed: bool
    """Whether the paper prints it; False for a data set that the paper does not have."""


def rows_of(grid: Mapping[str, Any]) -> list[Row]:
    """The rows in the order of the tables; two of them repeat another one, and have its name.

    A table names its model, loss and sampling once; a row is one line: ``gowalla 512x256 511`` is the data set, the
    batch size x the sequence length, and the negatives per token if the loss draws any.

    Raises:
        ConfigError: a line of another form.
    """
    found = []
    for number, table in grid["tables"].items():
        shared: dict[str, Any] = {"model": table["model"], "loss": table["loss"]}
        if "sampling" in table:
            shared["negatives"] = {"sampling": table["sampling"]}
        lines = [_read_line(number, line) for line in (*table["points"], *table.get("further", ()))]
        sizes = defaultdict(set)
        for line in lines:
            sizes[line["dataset"]].add((line["batch_size"], line["max_seq_len"], line.get("num_negatives")))
        for place, line in enumerate(lines):
            size = f"-{line['batch_size']}x{line['max_seq_len']}" if len(sizes[line["dataset"]]) > 1 else ""
            name, printed = f"{number}/{line['dataset']}{size}", place < len(table["points"])
            found.append(Row(name, int(number), line["dataset"], shared | line, printed))
    return found


def row_values(file: Mapping[str, Any], name: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    """What a row decides, as nested values of params.yaml.

    Args:
        file: the mapping of params.yaml.
        name: of the row.
        beside: the dotted keys that are set beside the row; what the paper derives from one of them follows it.

    Raises:
        ConfigError: there is no such row, or negatives are to be shared in the paper's own code.
    """
    if not {"grid", "presets"} <= set(file):
        raise ConfigError(f"row: found {name!r}, allowed here: {NO_ROW}, as there are no tables of the paper (grid)")
    grid = file["grid"]
    rows = {row.name: row for row in rows_of(grid)}
    if name not in rows:
        of_table = [row for row in rows if row.partition("/")[0] == name.partition("/")[0]]
        allowed = ", ".join(of_table) or f"{NO_ROW}, or TABLE/DATASET such as 4/gowalla, with a table of grid.tables"
        raise ConfigError(f"row: found {name!r}, allowed: {allowed}")
    row = rows[name]
    model, loss, batch_size, max_seq_len = (
        beside.get(key, row.values[key]) for key in ("model", "loss", "batch_size", "max_seq_len")
    )
    values = merged(file["presets"][f"paper_{model}"], grid["settings"], row.values)
    if loss == "sce":
        sizes = sce_sizes(batch_size, max_seq_len)
        values = merged(values, {"losses": {"sce": {"buckets": sizes.buckets, "bucket_size_x": sizes.bucket_size_x}}})
    if not LOSSES[loss].sampled:
        del values["negatives"]
    elif (sharing := beside.get("negatives.sharing", values["negatives"]["sharing"])) != "none" and beside.get(
        "paper_faithful"
    ):
        raise ConfigError(
            f"negatives.sharing: found {sharing!r} with row={name}, allowed: none with paper_faithful=true, the paper "
            "shares nothing"
        )
    _, twin, scale = str(beside.get("row_data", "real")).partition("twin")
    if twin:
        _check_scale(row.dataset, scale)
    return values | {"dataset": f"twin:{row.dataset}{scale}" if twin else row.dataset}


def _check_scale(dataset: str, scale: str) -> None:
    """Refuse a scale of ``row_data``, such as ``@0``, that gives no synthetic log of the data set."""
    from rec_data.sources.synthetic import parse

    try:
        parse(f"{dataset}{scale}")
    except DataError as error:
        text = str(error).replace(f"twin:{dataset}", "twin").removeprefix("dataset ")
        raise ConfigError(f"row_data: found {text}") from None


def sce_sizes(batch_size: int, max_seq_len: int) -> Sce:
    """The paper's rule for SCE: the number of buckets equals the tokens per bucket, 2 sqrt(B L)."""
    buckets = int(2 * math.sqrt(batch_size * max_seq_len))
    return Sce(buckets=buckets, bucket_size_x=buckets)


def with_row(values: dict[str, Any], file: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with those of their row in place of the `usual` ones, which are the defaults by dotted key.

    A value that is none of the defaults was set beside the row, and stays.

    Raises:
        ConfigError: as `row_values`.
    """
    beside = {key: value for key, value in flatten(values).items() if value != usual[key]}
    decided = flatten(row_values(file, values["row"], beside))
    return merged(values, nest({key: value for key, value in decided.items() if key not in beside}))


def _read_line(number: int, line: str) -> dict[str, Any]:
    found = re.fullmatch(r"(\S+) (\d+)x(\d+)(?: (\d+))?", line)
    if found is None:
        raise ConfigError(f"grid.tables.{number}: found {line!r}, allowed: DATASET BATCHxLENGTH [NEGATIVES]")
    dataset, batch_size, max_seq_len, negatives = found.groups()
    row = {"dataset": dataset, "batch_size": int(batch_size), "max_seq_len": int(max_seq_len)}
    return row | ({"num_negatives": int(negatives)} if negatives else {})
