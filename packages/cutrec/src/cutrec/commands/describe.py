"""Describe a log: sizes, lengths, popularity, repeats, time span, and how much its order matters.

The log is the one that ``dataset`` and ``download`` of params.yaml name, with the given changes, written with or
without ``-S`` as for ``dvc exp run -S``. Prints a table, and writes ``describe.json`` and ``describe.png``.

Example:
    uv run cutrec describe -S dataset=/data/visits.csv -S download.columns.user=visitor
"""

import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file
from cutrec.config import from_mapping, read_yaml
from cutrec.console import prepare_output_folder
from cutrec.nested import changed
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, PARAMS, live_checkout

OUT = DATA / "describe"
SECTIONS = ("dataset", "download")
"""The keys of params.yaml that define the log."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "changes of params.yaml: dataset=..., download.columns.user=..., ..."
    parser.add_argument("changes", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("-S", dest="more_changes", action="append", metavar="KEY=VALUE", help="the same")
    text = f"folder of describe.json and describe.png (default: {OUT})"
    parser.add_argument("--out", type=local_file, default=OUT, help=text)


def run(options: Namespace) -> None:
    """Read params.yaml, apply the changes and describe the log."""
    out = options.out
    prepare_output_folder("--out", out)
    config = from_mapping(changed(read_yaml(PARAMS), [*options.changes, *(options.more_changes or [])], SECTIONS))

    from cutrec.workflow.fetch import fetch
    from rec_data import describe

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        read = fetch(config, log, root=live_checkout())
        with atomic_folder(out) as fresh:
            found = describe.describe(
                log,
                tie_seed=config.download.tie_seed(config.seed),
                picture=fresh / "describe.png",
                title=Path(config.dataset).name,
            )
            print(describe.as_text(found))
            for name, values in read.get("columns_of_events", {}).items():
                print(
                    f"{'events':16} column {name!r} holds {values}: download.events.column and .keep keep some of them"
                )
            write_json(fresh / "describe.json", {"dataset": config.dataset, **found})
    print(f"picture: {out / 'describe.png'}")
