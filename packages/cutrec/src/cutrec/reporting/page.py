"""The page of the report, its pictures, and how to repeat the run."""

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutrec.config import NAMES
from cutrec.config_point import AUTO_KEYS, Config, as_written
from cutrec.environment import Code, version
from cutrec.nested import as_override, as_yaml, nest
from cutrec.reporting import html, tables
from cutrec.reporting.limits import limits
from cutrec.reporting.remarks import Remark
from cutrec.reporting.run_outputs import RunOutputs, numbers

if TYPE_CHECKING:
    from rec_data.raw.titles import Titles

TEMPLATE = Path(__file__).parent / "report.html.jinja"
COMMAND_WIDTH = 100
"""Characters of a command before it is split over several lines."""
LIBRARIES = ("torch", "triton", "lightning", "numpy", "pyarrow", "polars", "dvc")


def draw(run: RunOutputs, out: Path) -> None:
    """Draw the pictures that the run has data for into an existing folder."""
    from cutrec.reporting import figures

    found = run.details
    figures.draw_training(run.history, run.training["best_epoch"], out, accuracy=found is not None)
    if found is not None:
        figures.draw_metrics(found["intervals"], out)
        figures.draw_segments(found["segments"], out)
        figures.draw_popularity(numbers(found["concentration"]), found["popularity"], out)


def write_page(run: RunOutputs, pictures: Mapping[str, bytes], titles: "Titles | None" = None) -> str:
    """The page as HTML that needs no other file, with its PNG pictures by name and the titles of its items."""
    environment = html.environment(TEMPLATE.parent)
    environment.filters["show"] = tables.show
    found, remarks = run.details, limits(run)
    installed = [f"{name} {number}" for name in LIBRARIES if (number := version(name))]
    return environment.get_template(TEMPLATE.name).render(
        run=run,
        pictures={name: html.picture(image) for name, image in pictures.items()},
        title=tables.title(run.config),
        headline=tables.headline(run),
        remarks=remarks,
        next_steps=next_steps(run, remarks),
        numbers=tables.key_numbers(run),
        measured=tables.measured(run.config),
        meanings=tables.meanings(found["intervals"]) if found else {},
        paired=tables.paired(run),
        ks=tables.cutoffs(found["intervals"]) if found else [],
        metrics=tables.metric_rows(found["intervals"]) if found else [],
        beyond_metrics=tables.beyond_metrics(found["intervals"]) if found else [],
        beyond=tables.beyond_rows(found["intervals"]) if found else [],
        popularity=tables.popularity_rows(found["popularity"]) if found else [],
        segments=tables.segment_tables(found["segments"]) if found else [],
        resources=tables.resource_rows(run),
        sizes=tables.size_rows(run.split),
        data_rows=tables.data_rows(run),
        reachable=tables.reachable(run.config, run.split),
        changed=tables.changed_settings(run.asked),
        settings=[(key, tables.show(value)) for key, value in as_written(run.config).items()],
        titles=titles,
        steps=steps(run.asked, run.code),
        versions=", ".join([f"Python {platform.python_version()}", *installed]),
    )


def next_steps(run: RunOutputs, remarks: Sequence[Remark]) -> list[tuple[str, str]]:
    """What to do with the model of this page: sentences, each with a command."""
    config = run.asked
    try:
        experiment(config, {})
    except ValueError:  # what -S cannot carry is in params.yaml
        config = Config(undecided=AUTO_KEYS)
    if run.details is None:
        return []
    found = []
    if better := [remark for remark in remarks if remark.changes]:
        sentence = "Train again with settings that help: " + "; ".join(remark.cure for remark in better) + "."
        changes = {key: value for remark in better for key, value in remark.changes.items()}
        found = [(sentence, experiment(config, changes))]
    user = shlex.quote(str(run.details["examples"][0]["user"]))
    loss = run.config.loss
    other = "cce_neg" if loss == "cce" else "cce"
    names = f"--name {loss}", f"--name {other}"
    compared = [experiment(config, {}, names[0]), experiment(config, {"loss": other}, names[1])]
    compared.append(f"uv run cutrec compare {loss} {other}")
    return [
        *found,
        ("Write the ten best items for every user, from whole histories:", "uv run cutrec recommend --k 10"),
        ("Print the list of one user:", f"uv run cutrec recommend --user={user}"),
        (
            "Try another loss and compare user by user; what is known already is not computed again:",
            "\n".join(compared),
        ),
    ]


def experiment(config: Config, changes: Mapping[str, Any], *options: str) -> str:
    """The command that runs the pipeline with the settings of a run and some changes.

    Raises:
        ValueError: a setting that ``-S`` cannot carry.
    """
    # The values of a preset or a row are among the settings, so it is not named itself.
    settings = {key: value for key, value, _ in tables.changed_settings(config) if key not in NAMES}
    settings |= changes
    words = [f"-S {shlex.quote(f'{key}={as_override(value)}')}" for key, value in settings.items()]
    parts = [" ".join(["uv run dvc exp run", *options]), *words]
    line = " ".join(parts)
    return line if len(line) <= COMMAND_WIDTH else " \\\n    ".join(parts)


def steps(config: Config, code: Code) -> list[tuple[str, str]]:
    """How to repeat a run in a clone of the repository: sentences, and what is typed or written after each."""
    changed = {key: value for key, value, _ in tables.changed_settings(config) if key not in NAMES}
    found = [("", f"git checkout {code.revision}")] if code.revision else []
    try:
        return [*found, ("", experiment(config, {}) if changed else "uv run dvc repro")]
    except ValueError:  # with such a value in params.yaml, no other one can be set by -S either
        text = "Set these values in params.yaml; -S cannot carry all of them:"
        return [*found, (text, "\n".join(params_lines(nest(changed)))), ("Then run:", "uv run dvc exp run")]


def params_lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested values as lines of params.yaml."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from params_lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {as_yaml(value)}"
