"""The outputs of a run's stages, as the report reads them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutrec.checksums import verified
from cutrec.config import read_yaml
from cutrec.config_point import Config
from cutrec.decide import with_decisions
from cutrec.environment import Code, read_code
from cutrec.outputs import read_json
from cutrec.paths import SETTINGS

TABLES = ("intervals", "comparison", "segments", "popularity", "concentration")
"""The CSV files that `cutrec.reporting.details` writes."""


@dataclass(frozen=True)
class RunOutputs:
    """The configuration of a run and the outputs of its stages."""

    asked: Config
    """As params.yaml has it; some of its keys may be undecided."""
    config: Config
    """As trained."""
    source: dict[str, Any]
    download: dict[str, Any]
    split: dict[str, Any]
    training: dict[str, Any]
    history: list[dict[str, float]]
    evaluation: dict[str, Any]
    memory: dict[str, Any]
    """Peak memory of ranking."""
    details: dict[str, list[dict[str, Any]]] | None
    """The rows of `TABLES` (column names to texts) and the ``examples``, by name; None for a synthetic log."""
    decided: dict[str, dict[str, Any]]
    """``value`` and ``reason`` of each setting that training decided from the log, by dotted key."""
    code: Code


def read_outputs(config: Config, data: Path) -> RunOutputs:
    """Read the outputs of a run from the folder ``data`` with a folder per stage."""
    evaluation = read_json(data / "evaluate" / "metrics.json")
    folder = data / "evaluate" / "details"
    details: dict[str, list[dict[str, Any]]] | None = None
    if "ndcg@10" in evaluation:
        details = {name: read_csv(folder / f"{name}.csv") for name in TABLES}
        details["examples"] = json.loads(verified(folder / "examples.json").read_text(encoding="utf-8"))
    settings = read_yaml(verified(data / "train" / SETTINGS.name))
    return RunOutputs(
        asked=config,
        config=with_decisions(config, settings),
        source=read_json(data / "source" / "fingerprint.json"),
        download=read_json(data / "download" / "summary.json"),
        split=read_json(data / "split" / "summary.json"),
        training=read_json(data / "train" / "metrics.json"),
        history=numbers(read_csv(data / "train" / "history.csv")),
        evaluation=evaluation,
        memory=read_json(folder / "memory.json"),
        details=details,
        decided=settings["decided"],
        code=read_code(),
    )


def numbers(rows: list[dict[str, str]]) -> list[dict[str, float]]:
    """The rows of a CSV as numbers; NaN for an empty cell."""
    return [{key: float(value or "nan") for key, value in row.items()} for row in rows]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that a stage wrote, by column name."""
    with verified(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
