"""The page of the report and its pictures."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from pathlib import Path

import jinja2

from cutrec.reporting import figures, reproduce, tables
from cutrec.reporting.run_outputs import RunOutputs, numbers

TEMPLATE = Path(__file__).parent / "report.html.jinja"


def draw(run: RunOutputs, out: Path) -> None:
    """Draw the pictures that the run has data for.

    Args:
        run: a run.
        out: an existing folder.
    """
    found = run.details
    figures.draw_training(run.history, run.training["best_epoch"], out / "training.png", accuracy=found is not None)
    if found is not None:
        figures.draw_metrics(found.intervals, out / "metrics_at_k.png")
        figures.draw_segments(found.bands, out / "bands.png")
        concentration = [numbers(row) for row in found.concentration]
        figures.draw_popularity(concentration, found.popularity, out / "popularity.png")


def write_page(run: RunOutputs, pictures: dict[str, bytes]) -> str:
    """The page as HTML that needs no other file.

    Args:
        run: a run.
        pictures: PNG files by name.
    """
    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = tables.show
    found = run.details
    return environment.get_template(TEMPLATE.name).render(
        run=run,
        pictures={name: f"data:image/png;base64,{b64encode(image).decode()}" for name, image in pictures.items()},
        title=tables.title(run.config),
        labels=tables.labels(run.config),
        headline=tables.headline(run),
        numbers=tables.key_numbers(run),
        metrics=tables.metric_rows(found.intervals) if found else [],
        beyond=tables.beyond_rows(found.intervals, found.popularity) if found else [],
        segments=tables.segment_tables(found.bands) if found else [],
        resources=tables.resource_rows(run),
        sizes=tables.size_rows(run.split),
        data_rows=tables.data_rows(run),
        reachable=tables.reachable(run.config, run.split),
        changed=tables.changed_settings(run.config),
        settings=tables.flat(dataclasses.asdict(run.config)),
        commands=reproduce.commands(run.config, run.code),
        versions=reproduce.versions(),
    )
