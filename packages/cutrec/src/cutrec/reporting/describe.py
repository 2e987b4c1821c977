"""Describe a log: sizes, lengths, popularity, repeats, time span, and how much its order matters.

    python -m cutrec.reporting.describe [dataset=NAME_OR_PATH] [download.KEY=VALUE ...] [--out FOLDER]

Reads ``dataset`` and ``download`` of params.yaml, with the changes of the command line (the values of ``-S``), and
fetches the log as the stage ``download`` would. Prints a table; writes ``describe.json`` and ``describe.png``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cutrec import config
from cutrec.nested import merged, parse_overrides
from cutrec.workflow import outputs as stage
from cutrec.workflow.fetch import fetch

OUT = stage.DATA / "describe"
DESCRIPTION = """\
Describe a log: sizes, lengths, popularity, repeats, time span, and how much its order matters.

The log is that of dataset and download in params.yaml, with the changes given (as dvc exp run -S takes them). Prints a
table, and writes describe.json and describe.png."""
SECTIONS = ("dataset", "download")
"""The keys of params.yaml that say what a log is."""


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and params.yaml, describe."""
    changes, out = parse(arguments)
    stage.room_for_folder("--out", out)
    describe(config.from_mapping(changed(config.read_yaml(Path("params.yaml")), changes)), out)


def parse(arguments: list[str] | None = None) -> tuple[list[str], Path]:
    """The changes and the folder of a command line.

    Raises:
        StageError: one line that names the option.
    """
    from argparse import ArgumentError, RawDescriptionHelpFormatter

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="python -m cutrec.reporting.describe",
        description=DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument(
        "changes", nargs="*", default=[], metavar="KEY=VALUE", help="dataset=..., download.columns.user=..., ..."
    )
    text = f"folder of describe.json and describe.png (default: {OUT})"
    parser.add_argument("--out", type=Path, default=OUT, help=text)
    try:
        given = parser.parse_args(arguments)
    except ArgumentError as error:
        raise stage.StageError(f"{error}; --help lists the options") from None
    return given.changes, given.out


def changed(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """The values of params.yaml with some keys changed, as DVC's ``-S`` would.

    Raises:
        StageError: a change that is no ``KEY=VALUE``, or of a key that says nothing about the log.
        ConfigError: a value that is no YAML.
    """
    for change in changes:
        key, sign, _ = change.partition("=")
        if not sign or key.split(".")[0] not in SECTIONS:
            raise stage.StageError(f"found {change!r}, allowed: dataset=..., or download.KEY=... of params.yaml")
    return merged(values, parse_overrides(changes, "change"))


def describe(point: config.Config, out: Path) -> None:
    """Fetch the log of a point, print and write what it is like."""
    from rec_data import describe as description
    from rec_data.describe import draw

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        fetch(point, log)
        facts = description.describe(log)
        print(description.as_text(facts))
        with stage.output(out) as fresh:
            stage.write_json(fresh / "describe.json", {"dataset": point.dataset, **facts})
            draw(log, fresh / "describe.png", title=Path(point.dataset).name)
    print(f"picture: {out / 'describe.png'}")


if __name__ == "__main__":
    stage.run(main)
