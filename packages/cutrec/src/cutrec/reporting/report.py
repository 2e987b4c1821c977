"""Stage ``report``: one page that tells a run to somebody who was not there.

    python -m cutrec.reporting.report

Reads what the other stages wrote; writes ``data/report/report.html``, which needs no other file (pictures and style are
inside), the pictures by themselves, and ``results.csv``, the run in the schema of `cutrec.reporting.results_file`.
Imports
no torch: what is measured, ``pipelines.evaluate`` has measured.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from cutrec import config
from cutrec.reporting import figures, reproduce, tables
from cutrec.reporting import results_file as results
from cutrec.workflow import outputs as stage

TEMPLATE = Path(__file__).parent / "report.html.jinja"


def main() -> None:
    """Draw the pictures and write the page."""
    facts = read_facts(config.load())
    with stage.output(stage.DATA / "report") as out:
        draw(facts, out)
        pictures = {path.stem: path.read_bytes() for path in sorted(out.glob("*.png"))}
        (out / "report.html").write_text(write_page(facts, pictures), encoding="utf-8")
        found = results.of_run(facts.point, facts.training, facts.evaluation, **results.versions())
        results.write(out / "results.csv", found)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the other stages wrote, as read."""

    point: config.Config
    source: dict[str, Any]
    download: dict[str, Any]
    split: dict[str, Any]
    training: dict[str, Any]
    history: list[dict[str, float]]
    evaluation: dict[str, Any]
    memory: dict[str, Any]
    """Of ranking."""
    details: Details | None
    """None for a twin."""
    code: reproduce.Code


@dataclasses.dataclass(frozen=True)
class Details:
    """The tables that `cutrec.reporting.details` writes: a mapping of names to texts for each row."""

    intervals: list[dict[str, str]]
    comparison: list[dict[str, str]]
    bands: list[dict[str, str]]
    popularity: list[dict[str, str]]
    concentration: list[dict[str, str]]
    examples: list[dict[str, Any]]


def read_facts(point: config.Config) -> Facts:
    """Read the outputs of the other stages."""
    data = stage.DATA
    evaluation = stage.read_json(data / "evaluate" / "metrics.json")
    folder = data / "evaluate" / "details"
    details = None
    if "ndcg@10" in evaluation:
        found = {
            name: _read_csv(folder / f"{name}.csv") if (folder / f"{name}.csv").exists() else []
            for name in ("intervals", "comparison", "bands", "popularity", "concentration")
        }
        details = Details(**found, examples=json.loads((folder / "examples.json").read_text(encoding="utf-8")))
    return Facts(
        point=point,
        source=stage.read_json(data / "source" / "fingerprint.json"),
        download=stage.read_json(data / "download" / "summary.json"),
        split=stage.read_json(data / "split" / "summary.json"),
        training=stage.read_json(data / "train" / "metrics.json"),
        history=[_numbers(row) for row in _read_csv(data / "train" / "history.csv")],
        evaluation=evaluation,
        memory=stage.read_json(folder / "memory.json"),
        details=details,
        code=reproduce.read_code(),
    )


def draw(facts: Facts, out: Path) -> None:
    """Draw the pictures that this run has anything for."""
    found = facts.details
    figures.draw_training(facts.history, facts.training["best_epoch"], out / "training.png", accuracy=found is not None)
    if found is not None:
        figures.draw_metrics(found.intervals, out / "metrics_at_k.png")
        figures.draw_bands(found.bands, out / "bands.png")
        concentration = [_numbers(row) for row in found.concentration]
        figures.draw_popularity(concentration, found.popularity, out / "popularity.png")


def write_page(facts: Facts, pictures: dict[str, bytes]) -> str:
    """The page as HTML, complete in itself.

    Args:
        facts: of the run.
        pictures: PNG files by name.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = tables.show
    found = facts.details
    return environment.get_template(TEMPLATE.name).render(
        facts=facts,
        pictures={name: f"data:image/png;base64,{b64encode(image).decode()}" for name, image in pictures.items()},
        title=tables.title(facts.point),
        labels=tables.labels(facts.point),
        headline=tables.headline(facts),
        numbers=tables.key_numbers(facts),
        metrics=tables.metric_rows(found.intervals) if found else [],
        beyond=tables.beyond_rows(found.intervals, found.popularity) if found else [],
        bands=tables.band_tables(found.bands) if found else [],
        resources=tables.resource_rows(facts),
        sizes=tables.size_rows(facts.split),
        data_facts=tables.data_rows(facts),
        reachable=tables.reachable(facts.point, facts.split),
        changed=tables.changed_settings(facts.point),
        settings=tables.flat(dataclasses.asdict(facts.point)),
        commands=reproduce.commands(facts.point, facts.code),
        versions=reproduce.versions(),
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) if value else float("nan") for key, value in row.items()}


if __name__ == "__main__":
    stage.run(main)
