"""What the accuracy study found: tables beside published numbers, a picture of accuracy against time, presets."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.config import PRESET_KEYS
from cutrec.nested import nest
from cutrec.reporting import results_file as results
from pipelines.study.picture import draw
from pipelines.study.trials import (
    FINAL_SEEDS,
    SEARCHES,
    TRADE_OFFS,
    Row,
    Search,
    Settings,
    TradeOff,
    Trial,
    chosen,
)

PUBLISHED = Path(__file__).parents[1] / "reference" / "published_leave_one_out.csv"
METRICS = ("ndcg_at_10", "recall_at_10", "coverage_at_10")
HEADINGS = {
    "dataset": "data set",
    "chosen": "chosen on validation",
    "validation_ndcg_at_10": "validation NDCG@10",
    "ndcg_at_10": "NDCG@10",
    "recall_at_10": "Recall@10",
    "coverage_at_10": "Coverage@10",
    "published_ndcg_at_10": "published NDCG@10",
    "published_by": "published by",
    "reached": "reached within a deviation",
    "step_ms": "step ms, median",
    "step_ms_p10": "step ms, 10th percentile",
}
"""Of the Markdown tables; the CSV files keep the names."""


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds."""

    mean: float
    std: float
    seeds: int

    def __str__(self) -> str:
        """As tables write it."""
        if self.seeds == 1:
            return f"{self.mean:.4f} (one seed)"
        return f"{self.mean:.4f} +- {self.std:.4f}" + (
            f" ({self.seeds} seeds)" if self.seeds < len(FINAL_SEEDS) else ""
        )


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation (divisor n - 1); None of nothing."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def summarise(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write everything that the rows say.

    Args:
        rows: of `pipelines.study.runs`.
        out: a folder; it gets ``accuracy.md`` and ``accuracy.csv``, ``presets.yaml``, ``trade_off.md``,
            ``trade_off.csv``; where finals were run, ``results.csv`` (schema: `cutrec.reporting.results_file`), and
            where
            times were taken, ``trade_off.png``.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    accuracy = accuracy_table(rows)
    trade_off = trade_off_table(rows)
    paths = [
        *_write(out / "accuracy", accuracy, unfinished(rows)),
        *_write(out / "trade_off", trade_off, unfinished_trade_offs(rows)),
    ]
    paths += [*_write_results(out / "results.csv", rows), _write_presets(out / "presets.yaml", rows)]
    if any(entry["step_ms"] is not None and entry["ndcg_at_10"] is not None for entry in trade_off):
        machines = sorted({row["device"] for row in rows if row["kind"] == "time" and row["status"] == "ok"})
        paths.append(draw(trade_off, out / "trade_off.png", " and ".join(machines)))
    return paths


def accuracy_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each data set and contender whose search is complete."""
    table = []
    for search in SEARCHES:
        for contender in search.contenders:
            best = chosen(rows, search, contender)
            if best is None:
                continue
            point = Trial.of("final", search.dataset, contender, best, FINAL_SEEDS[0]).point
            found = {metric: spread(values(rows, search.dataset, best, metric)) for metric in METRICS}
            ndcg = found["ndcg_at_10"]
            known = published(search.dataset, point.model, point.loss, point.num_negatives)
            table.append(
                {
                    "dataset": search.dataset,
                    "contender": contender,
                    "trials": _trials_run(rows, search, contender, "ok"),
                    "chosen": in_words(best, search),
                    "validation_ndcg_at_10": _validation(rows, search.dataset, best),
                    **found,
                    "published_ndcg_at_10": known and known[0],
                    "published_by": known and known[1],
                    "reached": None if ndcg is None or known is None else ndcg.mean + ndcg.std >= known[0],
                }
            )
    return table


def unfinished(rows: Sequence[Row]) -> list[str]:
    """A line for each search that was begun and is not complete; one line if nothing was run."""
    if not rows:
        return ["Nothing has been run yet."]
    found = []
    for search in SEARCHES:
        for contender in search.contenders:
            run = _trials_run(rows, search, contender)
            if 0 < run < len(search.candidates):
                found.append(f"Not complete: {search.dataset} {contender}, {run} of {len(search.candidates)} trials.")
            elif run and chosen(rows, search, contender) is None:
                found.append(f"Failed: {search.dataset} {contender}, all of {run} trials.")
    return found or ([] if any(row["kind"] == "search" for row in rows) else ["No search has been run yet."])


def unfinished_trade_offs(rows: Sequence[Row]) -> list[str]:
    """A line for each trade-off that waits for its search, or that nothing was run of."""
    if not rows:
        return ["Nothing has been run yet."]
    table = trade_off_table(rows)
    there = {entry["dataset"] for entry in table}
    found = []
    for trade_off in TRADE_OFFS:
        (search,) = (search for search in SEARCHES if search.dataset == trade_off.dataset)
        run = _trials_run(rows, search, trade_off.base)
        if run < len(search.candidates):
            of = f"{run} of {len(search.candidates)} trials"
            found.append(f"Not begun: {trade_off.dataset} waits for the search of {trade_off.base}, {of}.")
        elif _base(rows, trade_off) is None:
            found.append(f"Not begun: {trade_off.dataset}, the search of {trade_off.base} failed.")
        elif trade_off.dataset not in there:
            found.append(f"Not begun: {trade_off.dataset}, none of {len(trade_off.points)} points.")
        untimed = [e["point"] for e in table if e["dataset"] == trade_off.dataset and e["step_ms"] is None]
        if untimed:
            found.append(f"Not timed, so not in the picture: {trade_off.dataset}, {'; '.join(untimed)}.")
    return found


def _trials_run(rows: Sequence[Row], search: Search, contender: str, *statuses: str) -> int:
    """Candidates that were run, or of which a run ended so."""
    run = [
        row["settings"]
        for row in rows
        if (row["kind"], row["dataset"]) == ("search", search.dataset) and (not statuses or row["status"] in statuses)
    ]
    return sum(settings in run for settings in search.settings(contender))


def trade_off_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each point of the trade-offs that was run.

    ``step_ms`` is the median. In an epoch of some fifty steps many are the first of their size, and are recorded;
    ``step_ms_p10`` is of steps that are replayed.
    """
    table = []
    for trade_off in TRADE_OFFS:
        base = _base(rows, trade_off)
        for name, point in trade_off.points.items() if base is not None else ():
            settings = {**(base or {}), **point}
            times = _of(rows, "time", trade_off.dataset, settings)
            found = {metric: spread(values(rows, trade_off.dataset, settings, metric)) for metric in METRICS}
            if times or found["ndcg_at_10"]:
                time = {name: times[-1][name] if times else None for name in ("step_ms", "step_ms_p10")}
                table.append({"dataset": trade_off.dataset, "point": name, **time, **found})
    return table


def values(rows: Sequence[Row], dataset: str, settings: Settings, metric: str) -> list[float]:
    """A test metric of the final runs of some settings, over seeds."""
    return [row[metric] for row in _of(rows, "final", dataset, settings)]


def published(dataset: str, model: str, loss: str, num_negatives: int) -> tuple[float, str] | None:
    """The best published NDCG@10 of a loss (of any loss where the publication names none), and who measured it."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        found = [
            (float(row["ndcg_at_10"]), row["source"])
            for row in csv.DictReader(file)
            if (row["dataset"], row["model"]) == (dataset, model)
            and row["loss"] in ("", loss)
            and (row["num_negatives"] == "" or loss == "bce" or int(row["num_negatives"]) == num_negatives)
        ]
    return max(found, default=None)


def in_words(settings: Settings, search: Search) -> str:
    """What the search chose: the candidate's own keys."""
    own = dict.fromkeys(key for candidate in search.candidates for key in candidate)
    return ", ".join(f"{key.split('.')[-1]} {settings[key]}" for key in own if key in settings)


def _of(rows: Sequence[Row], kind: str, dataset: str, settings: Settings) -> list[Row]:
    return [
        row
        for row in rows
        if (row["kind"], row["dataset"], row["settings"], row["status"]) == (kind, dataset, settings, "ok")
    ]


def _base(rows: Sequence[Row], trade_off: TradeOff) -> Settings | None:
    (search,) = (search for search in SEARCHES if search.dataset == trade_off.dataset)
    return chosen(rows, search, trade_off.base)


def _validation(rows: Sequence[Row], dataset: str, settings: Settings) -> float | None:
    found = _of(rows, "search", dataset, settings)
    return found[-1]["validation_ndcg_at_10"] if found else None


def _write(path: Path, table: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[Path]:
    """A table as Markdown, with what is missing below, and as CSV, where a spread is three columns."""
    flat = []
    for entry in table:
        line: dict[str, Any] = {}
        for name, value in entry.items():
            if name in METRICS:
                line |= {name: value and value.mean, f"{name}_std": value and value.std, "seeds": value and value.seeds}
            else:
                line[name] = value
        flat.append(line)
    names = list(table[0]) if table else []
    headings = [HEADINGS.get(name, name) for name in names]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(names)] if names else []
    lines += ["| " + " | ".join(_cell(entry[name]) for name in names) + " |" for entry in table]
    parts = ["\n".join(lines)] * bool(lines) + ["\n".join(notes)] * bool(notes)
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]) if flat else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return [path.with_suffix(".md"), path.with_suffix(".csv")]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_results(path: Path, rows: Sequence[Row]) -> list[Path]:
    """The final runs of the contenders in the schema of everything that is measured; no file without any."""
    path.unlink(missing_ok=True)
    for search in SEARCHES:
        for contender in search.contenders:
            best = chosen(rows, search, contender)
            for row in _of(rows, "final", search.dataset, best) if best is not None else []:
                results.append(path, _result(row, in_words(row["settings"], search)))
    return [path] if path.exists() else []


def _result(row: Row, note: str) -> results.Result:
    trial = Trial.of("final", row["dataset"], row["contender"], row["settings"], row["seed"])
    shared = {name: row[name] for name in results.COLUMNS if name in row and name not in ("kind", "dataset", "seed")}
    fields = {**shared, "peak_fit_gib": row["peak_memory_gib"], "reference": "train", "note": note}
    return results.Result.of(trial.point, "accuracy", **fields)


def presets(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What the searches chose, as the section ``presets`` of params.yaml takes it, keys in that file's order."""
    found: dict[str, dict[str, Any]] = {}
    for search in SEARCHES:
        for contender in search.contenders:
            best = chosen(rows, search, contender)
            if best is not None:
                name = f"{search.dataset}_{contender}".replace(" ", "_")
                nested = nest({key: best[key] for key in best if key.split(".")[0] in PRESET_KEYS})
                found[name] = {key: nested[key] for key in PRESET_KEYS if key in nested}
    return found


def _write_presets(path: Path, rows: Sequence[Row]) -> Path:
    from ruamel.yaml import YAML

    with path.open("w", encoding="utf-8") as file:
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump(json.loads(json.dumps(presets(rows))), file)
    return path
