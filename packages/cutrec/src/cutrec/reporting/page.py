"""The page of the report, its pictures, and how to repeat the run."""

import platform
import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from cutrec.config import Config, as_written
from cutrec.environment import Code, version
from cutrec.nested import as_override, as_yaml, nest
from cutrec.reporting import tables
from cutrec.reporting.remarks import split_remarks
from cutrec.reporting.run_outputs import RunOutputs, numbers

TEMPLATE = Path(__file__).parent / "report.html.jinja"
COMMAND_WIDTH = 100
"""Characters of a command before it is split over several lines."""
LIBRARIES = ("torch", "triton", "lightning", "numpy", "pyarrow", "polars", "dvc")


def draw(run: RunOutputs, out: Path) -> None:
    """Draw the pictures that the run has data for into an existing folder."""
    from cutrec.reporting import figures

    found = run.details
    figures.draw_training(run.history, run.training["best_epoch"], out / "training.png", accuracy=found is not None)
    if found is not None:
        figures.draw_metrics(found["intervals"], out / "metrics_at_k.png")
        figures.draw_segments(found["bands"], out / "bands.png")
        figures.draw_popularity(numbers(found["concentration"]), found["popularity"], out / "popularity.png")


def write_page(run: RunOutputs, pictures: dict[str, bytes]) -> str:
    """The page as HTML that needs no other file, with its PNG pictures by name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = tables.show
    found = run.details
    installed = [f"{name} {number}" for name in LIBRARIES if (number := version(name))]
    return environment.get_template(TEMPLATE.name).render(
        run=run,
        pictures={name: f"data:image/png;base64,{b64encode(image).decode()}" for name, image in pictures.items()},
        title=tables.title(run.config),
        labels=tables.labels(run.config),
        remarks=split_remarks(run.config, run.split),
        headline=tables.headline(run),
        numbers=tables.key_numbers(run),
        ks=tables.cutoffs(found["intervals"]) if found else [],
        metrics=tables.metric_rows(found["intervals"]) if found else [],
        beyond=tables.beyond_rows(found["intervals"], found["popularity"]) if found else [],
        segments=tables.segment_tables(found["bands"]) if found else [],
        resources=tables.resource_rows(run),
        sizes=tables.size_rows(run.split),
        data_rows=tables.data_rows(run),
        reachable=tables.reachable(run.config, run.split),
        changed=tables.changed_settings(run.asked),
        settings=[(key, tables.show(value)) for key, value in as_written(run.config).items()],
        steps=steps(run.asked, run.code),
        versions=", ".join([f"Python {platform.python_version()}", *installed]),
    )


def steps(config: Config, code: Code) -> list[tuple[str, str]]:
    """How to repeat a run in a clone of the repository: sentences, and what is typed or written after each."""
    # The values of a preset are among the settings, so the preset itself is not named.
    changed = {key: value for key, value, _ in tables.changed_settings(config) if key != "preset"}
    found = [("", f"git checkout {code.revision}")] if code.revision else []
    try:
        words = [f"-S {shlex.quote(f'{key}={as_override(value)}')}" for key, value in changed.items()]
    except ValueError:  # with such a value in params.yaml, no other one can be set by -S either
        text = "Set these values in params.yaml; -S cannot carry all of them:"
        return [*found, (text, "\n".join(params_lines(nest(changed)))), ("Then run:", "uv run dvc exp run")]
    run = " ".join(["uv run dvc exp run", *words]) if changed else "uv run dvc repro"
    return [*found, ("", run if len(run) <= COMMAND_WIDTH else " \\\n    ".join(["uv run dvc exp run", *words]))]


def params_lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested values as lines of params.yaml."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from params_lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {as_yaml(value)}"
