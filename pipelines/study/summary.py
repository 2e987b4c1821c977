"""The files that show what the accuracy study found: tables, results, presets, a picture, a table in a page."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutrec.reporting import results_file as results
from cutrec.reporting.text_table import render
from pipelines.study import tables
from pipelines.study.picture import draw
from pipelines.study.trials import Row, Trial, runs_of, winners

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
MARKS = ("<!-- accuracy: written by `python -m pipelines.study summarise` -->", "<!-- end of accuracy -->")
"""The lines around the table of accuracy in a page."""


def summarise(rows: Sequence[Row], out: Path, page: Path | None = None) -> list[Path]:
    """Write everything that the rows show.

    Args:
        rows: of `pipelines.study.runs`.
        out: a folder; it gets ``accuracy.md`` and ``accuracy.csv``, ``trade_off.md`` and ``trade_off.csv``,
            ``presets.yaml``; if finals were run, ``results.csv`` (schema: `cutrec.reporting.results_file`), and if
            steps were timed, ``trade_off.png``.
        page: a Markdown page whose table between `MARKS` is replaced by the accuracy table.

    Returns:
        The files.

    Raises:
        ValueError: the page has no `MARKS`.
    """
    out.mkdir(parents=True, exist_ok=True)
    accuracy = tables.accuracy_table(rows)
    trade_off = tables.trade_off_table(rows)
    nothing = [] if rows else ["Nothing has been run yet."]
    paths = [
        *_write(out / "accuracy", accuracy, nothing or tables.unfinished(rows)),
        *_write(out / "trade_off", trade_off, nothing or tables.unfinished_trade_offs(rows)),
        *_write_results(out / "results.csv", rows),
        _write_presets(out / "presets.yaml", rows),
    ]
    if any(entry["step_ms"] is not None and entry["ndcg_at_10"] is not None for entry in trade_off):
        machines = sorted({row["device"] for row in rows if row["kind"] == "time" and row["status"] == "ok"})
        paths.append(draw(trade_off, out / "trade_off.png", " and ".join(machines)))
    if page is not None:
        page.write_text(with_accuracy(page.read_text(encoding="utf-8"), accuracy), encoding="utf-8")
        paths.append(page)
    return paths


def with_accuracy(page: str, table: Sequence[dict[str, Any]]) -> str:
    """A page with the table between `MARKS` replaced: our NDCG@10 and the published one.

    Raises:
        ValueError: the page has no `MARKS`.
    """
    names = ("dataset", "contender", "ndcg_at_10", "published_ndcg_at_10")
    block = f"{MARKS[0]}\n{_markdown(table, names)}\n{MARKS[1]}"
    changed, count = re.subn("(?s)" + ".*?".join(map(re.escape, MARKS)), lambda _: block, page)
    if not count:
        raise ValueError(f"--page: found no line {MARKS[0]!r}, allowed: a page with it and {MARKS[1]!r}")
    return changed


def _write(path: Path, table: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[Path]:
    """A table as Markdown, with the notes below it, and as CSV, where a spread takes three columns."""
    page, sheet = path.with_suffix(".md"), path.with_suffix(".csv")
    parts = [_markdown(table, list(table[0])) if table else "", "\n".join(notes)]
    page.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    flat = []
    for entry in table:
        line: dict[str, Any] = {}
        for name, value in entry.items():
            line[name] = value.mean if isinstance(value, tables.Spread) else value
            if name in tables.METRICS:
                line |= {f"{name}_std": value and value.std, "seeds": value and value.seeds}
        flat.append(line)
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]) if flat else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return [page, sheet]


def _markdown(table: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    rows = [[_cell(entry[name]) for name in names] for entry in table]
    return render([HEADINGS.get(name, name) for name in names], rows, left=2)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_results(path: Path, rows: Sequence[Row]) -> list[Path]:
    """The final runs of the contenders as a results file; no file if there are none."""
    found = []
    for search, contender, best in winners(rows):
        note = tables.in_words(best, search)
        for row in runs_of(rows, "final", search.dataset, best, "ok"):
            shared = {name: row[name] for name in results.COLUMNS if name in row.keys() - {"kind", "dataset", "seed"}}
            fields = shared | {"peak_fit_gib": row["peak_memory_gib"], "reference": "train", "note": note}
            point = Trial.of("final", search.dataset, contender, best, row["seed"]).point
            found.append(results.Result.of(point, "accuracy", **fields))
    path.unlink(missing_ok=True)
    if found:
        results.write(path, found)
    return [path] if found else []


def _write_presets(path: Path, rows: Sequence[Row]) -> Path:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(json.loads(json.dumps(tables.presets(rows))), path)
    return path
