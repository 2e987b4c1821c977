"""Stage ``report``: one page that tells a run to somebody who was not there.

    python -m pipelines.report

Reads what the other stages wrote; writes ``data/report/report.html``, which needs no other file (pictures and style are
inside), the pictures by themselves, and ``results.csv``, the run in the schema of `pipelines.results`. Imports no
torch: what is measured, ``pipelines.evaluate`` has measured.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from pipelines import params, report_figures, report_reproduce, report_tables, results, stage

TEMPLATE = Path(__file__).parent / "report.html.jinja"


def main() -> None:
    """Draw the pictures and write the page."""
    facts = read_facts(params.load())
    with stage.output(stage.DATA / "report") as out:
        draw(facts, out)
        pictures = {path.stem: path.read_bytes() for path in sorted(out.glob("*.png"))}
        (out / "report.html").write_text(write_page(facts, pictures), encoding="utf-8")
        for result in results.of_run(facts.point, facts.training, facts.evaluation, **results.versions()):
            results.append(out / "results.csv", result)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the other stages wrote, as read."""

    point: params.Params
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
    code: report_reproduce.Code


@dataclasses.dataclass(frozen=True)
class Details:
    """The tables that `pipelines.details` writes: a mapping of names to texts for each row."""

    intervals: list[dict[str, str]]
    comparison: list[dict[str, str]]
    bands: list[dict[str, str]]
    popularity: list[dict[str, str]]
    concentration: list[dict[str, str]]
    examples: list[dict[str, Any]]


def read_facts(point: params.Params) -> Facts:
    """Read the outputs of the other stages."""
    data = stage.DATA
    evaluation = stage.read_json(data / "evaluate" / "metrics.json")
    folder = data / "evaluate" / "details"
    details = None
    if "ndcg@10" in evaluation:
        tables = {
            name: _read_csv(folder / f"{name}.csv") if (folder / f"{name}.csv").exists() else []
            for name in ("intervals", "comparison", "bands", "popularity", "concentration")
        }
        details = Details(**tables, examples=json.loads((folder / "examples.json").read_text(encoding="utf-8")))
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
        code=report_reproduce.read_code(),
    )


def draw(facts: Facts, out: Path) -> None:
    """Draw the pictures that this run has anything for."""
    found = facts.details
    report_figures.draw_training(
        facts.history, facts.training["best_epoch"], out / "training.png", accuracy=found is not None
    )
    if found is not None:
        report_figures.draw_metrics(found.intervals, out / "metrics_at_k.png")
        report_figures.draw_bands(found.bands, out / "bands.png")
        concentration = [_numbers(row) for row in found.concentration]
        report_figures.draw_popularity(concentration, found.popularity, out / "popularity.png")


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
    environment.filters["show"] = report_tables.show
    found = facts.details
    return environment.get_template(TEMPLATE.name).render(
        facts=facts,
        pictures={name: f"data:image/png;base64,{b64encode(image).decode()}" for name, image in pictures.items()},
        title=report_tables.title(facts.point),
        labels=report_tables.labels(facts.point),
        headline=report_tables.headline(facts),
        numbers=report_tables.key_numbers(facts),
        metrics=report_tables.metric_rows(found.intervals) if found else [],
        beyond=report_tables.beyond_rows(found.intervals, found.popularity) if found else [],
        bands=report_tables.band_tables(found.bands) if found else [],
        resources=report_tables.resource_rows(facts),
        sizes=report_tables.size_rows(facts.split),
        data_facts=report_tables.data_rows(facts),
        reachable=report_tables.reachable(facts.point, facts.split),
        changed=report_tables.changed_settings(facts.point),
        settings=report_tables.flat(dataclasses.asdict(facts.point)),
        commands=report_reproduce.commands(facts.point, facts.code),
        versions=report_reproduce.versions(),
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) if value else float("nan") for key, value in row.items()}


if __name__ == "__main__":
    stage.run(main)
