"""The model card: a page of Markdown in a model's folder that says what the model is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tabulate import tabulate

from cutrec.config_point import Config, as_written
from cutrec.nested import as_yaml
from cutrec.reporting.remarks import Remark
from rec_data.schema import UNITS

CARD = "README.md"
"""The name of the card in a model's folder."""
_NOT_TRAINING = ("dataset", "download", "evaluate", "preset", "report", "row", "row_data", "split")
"""Keys and sections of params.yaml that do not say how a model was trained."""
_USE = """\
```python
from cutrec import Recommender

model = Recommender.load("FOLDER")  # the folder of this file
model.recommend(histories={"somebody": [ITEM, ITEM]}, k=10)  # items by the ids of the log, oldest first
```
"""


def model_card(
    config: Config,
    split: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    whole: bool = False,
    remarks: Iterable[Remark] = (),
    intervals: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as Markdown.

    Args:
        config: the settings as trained, with none undecided.
        split: the summary of the split; {} if it is not there.
        training: the content of the ``metrics.json`` of training.
        whole: the model was trained on the whole log; the split only says how the log was filtered.
        remarks: what limits the result.
        intervals: the rows of ``details/intervals.csv`` of the evaluation; () if the model was not tested.
    """
    parts = {
        "Data": _table(_data_rows(config, split, whole=whole)),
        "Metrics": _metrics(training, intervals),
        "Settings": f"```yaml\n{_settings(config)}```\n",
        "Limits": "".join(f"- {line[0].upper()}{line[1:]}\n" for line in _limits(config, split, whole, remarks)),
        "Use": _USE,
    }
    title = f"# {config.model} on {_log_name(config)}\n"
    what = (
        f"A sequential recommender, trained by CutRec {version('cutrec')}: it ranks items for the history of a user.\n"
    )
    return "\n".join([title, what, *(f"## {name}\n\n{text}" for name, text in parts.items())])


def _log_name(config: Config) -> str:
    """The data set; of a path its last part, because folders belong to one machine."""
    return config.dataset if config.dataset.startswith("twin:") else Path(config.dataset).name


def _table(rows: Sequence[Sequence[str]], header: Sequence[str] = ("", "")) -> str:
    table: str = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return table + "\n"


def _data_rows(config: Config, split: Mapping[str, Any], *, whole: bool) -> list[tuple[str, str]]:
    rows = [("log", f"`{_log_name(config)}`")]
    if size := split.get("filtered"):
        rows += [(f"{name} after filters", f"{size[name]:,}") for name in ("interactions", "users", "items")]
    if (last := _moment(split, "last_time")) and (first := _moment(split, "first_time")):
        days = math.ceil((last - first).total_seconds() / 86_400)
        rows.append(("days", f"{days:,}, from {first:%Y-%m-%d} to {last:%Y-%m-%d} (UTC)"))
    if "log_sha256" in split:
        rows.append(("SHA-256 of the log", f"`{split['log_sha256']}`"))
    if whole:
        return [*rows, ("split", "none: trained on all interactions")]
    if "strategy" in split:
        rows.append(("split", split["strategy"]))
    if boundary := _moment(split, "boundary_time"):
        rows.append(("test begins", boundary.isoformat(" ", "seconds")))
    for part in ("train", "validation", "test"):
        if part in split:
            rows.append((part, f"{split[part]['users']:,} users, {split[part]['interactions']:,} interactions"))
    return rows


def _moment(split: Mapping[str, Any], name: str) -> datetime | None:
    """A time of the split's summary; None if it has none, or if times are positions."""
    if not split.get("clock") or split.get(name) is None:
        return None
    return datetime.fromtimestamp(split[name] / UNITS[split["timestamp_unit"]], UTC)


def _metrics(training: Mapping[str, Any], intervals: Sequence[Mapping[str, Any]]) -> str:
    """The metrics at 10, one per row; validation has no interval, because it chose the epoch."""
    validation = {name.removeprefix("validation_"): found for name, found in training.items() if "@" in name}
    tested = {(row["ranking"], f"{row['metric']}@{row['k']}"): row for row in intervals if str(row["k"]) == "10"}
    names = dict.fromkeys([*validation, *(name for _, name in tested)])
    rows = [
        [
            name,
            f"{validation[name]:.4f}" if name in validation else "",
            *(_with_interval(tested.get((ranking, name))) for ranking in ("model", "popularity")),
        ]
        for name in names
    ]
    epochs = f"The weights are those of epoch {training['best_epoch']} of {training['epochs']}.\n"
    if not rows:
        return f"None were measured. {epochs}"
    header, ending = ["metric", "validation", "test", "test, by popularity"], "Intervals are at 95 %."
    if not tested:
        rows, header = [row[:2] for row in rows], header[:2]
        ending = "The model has not been tested: validation chose the epoch, so its metrics are too high."
    return _table(rows, header) + f"\n{ending} {epochs}"


def _with_interval(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = f" ({float(row['low']):.4f} to {float(row['high']):.4f})" if row["low"] not in ("", None) else ""
    return f"{float(row['value']):.4f}{interval}"


def _settings(config: Config) -> str:
    found = {key: value for key, value in as_written(config).items() if key.partition(".")[0] not in _NOT_TRAINING}
    return "".join(f"{key}: {as_yaml(value)}\n" for key, value in found.items())


def _limits(config: Config, split: Mapping[str, Any], whole: bool, remarks: Iterable[Remark]) -> list[str]:
    last = (None if whole else _moment(split, "boundary_time")) or _moment(split, "last_time")
    return [
        *(remark.line for remark in remarks),
        "It ranks the items of `items.parquet` and no others: a new item needs another training.",
        *([f"It has learned from events until {last:%Y-%m-%d} (UTC), and knows no later trend."] if last else []),
        f"It reads the last {config.max_seq_len} items of a history, and gives no list to a user whose history has "
        "none of its items.",
        "The metrics say how well events of the same log are predicted. What users do with the lists, and whether "
        "items or groups of users are treated alike, was not measured.",
        "It was trained on the events of people; who asks to be forgotten may be in its weights (`cutrec forget`).",
    ]
