"""Compare a later log B with an earlier log A: has it changed by more than A itself does from window to window?

Measures the turnover of the catalogue, the shift of popularity, the events per user and the share of unknown items;
with ``--model`` also the scores of the model. A is cut into windows of the length of B, whose variation gives the
thresholds.

A and B are each a log as ``dataset`` of params.yaml takes it, or what the stage download wrote: ``log.parquet`` or a
folder that holds it. If B begins with A, what follows the end of A counts. Writes ``drift.html`` and ``drift.json``.

The exit status is 0 if B is within all thresholds, and 1 if it is beyond one of them, or if the input is at fault; then
a line begins with ``error:`` and no ``drift.json`` is written.

Examples:
    uv run cutrec drift data/download/log.parquet /data/today.parquet
    uv run cutrec drift old.csv new.csv --model data/train --out drift
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, local_path, share
from cutrec.config import load, read_yaml
from cutrec.console import prepare_output_folder
from cutrec.outputs import atomic_folder
from cutrec.paths import DATA, PARAMS, existing_model

OUT = DATA / "drift"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", type=local_path, help="the earlier log, at least four times as long as B")
    parser.add_argument("b", metavar="B", type=local_path, help="the later log")
    text = "the folder of a model: what it does not know is unknown, and its scores are compared"
    parser.add_argument("--model", type=local_file, help=text)
    text = "of the prediction interval whose upper end is the threshold (default: 0.99)"
    parser.add_argument("--level", type=share, default=0.99, help=text)
    text = f"folder of drift.html and drift.json (default: {OUT})"
    parser.add_argument("--out", type=local_file, default=OUT, help=text)
    text = "change of params.yaml for reading the logs: download.columns.item=sku, ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "where --model ranks: auto (the default) takes a GPU if there is one"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)


def run(options: Namespace) -> None:
    """Measure both logs, write the page, print the table, and end with status 1 if B is beyond a threshold."""
    prepare_output_folder("--out", options.out)
    model = None if options.model is None else existing_model(options.model)
    values, config = read_yaml(PARAMS), load()

    from cutrec.reporting.drift import judge, table, write_drift
    from cutrec.reporting.text_table import render
    from cutrec.workflow import drift
    from rec_data.drift import compare_logs

    encoder = items = None
    if model is not None:
        from cutrec.workflow.recommend import choose_device, load_model

        encoder, items = load_model(model, choose_device(options.device))
    with tempfile.TemporaryDirectory() as folder:
        names = {"A": options.a, "B": options.b}
        logs = [drift.log_of(key, name, Path(folder) / key, values, options.changes) for key, name in names.items()]
        fewest, _ = config.split.min_counts()
        compared = compare_logs(*logs, min_item_count=fewest or 1, known=items)
        scores = None
        if encoder is not None and items is not None:
            scores = drift.score_changes(compared, encoder, items, tie_seed=config.download.tie_seed(config.seed))
        measures = judge(compared, scores, level=options.level)
        if compared.left_out:
            text = f"{compared.left_out:,} events of B are not after the end of A and are left out"
            print(f"note: {text}", file=sys.stderr)
        given = {"a": options.a, "b": options.b, "model": None if model is None else str(model)}
        words = ["uv run cutrec drift", shlex.quote(options.a), shlex.quote(options.b)]
        words += [f"--model {shlex.quote(given['model'])}"] if given["model"] else []
        words += [f"-S {shlex.quote(change)}" for change in options.changes]
        with atomic_folder(options.out) as fresh:
            write_drift(compared, measures, given, fresh, command=" ".join(words))
    header, *rows = table(measures)
    print(render(header, rows, left=1))
    print(f"page: {options.out / 'drift.html'}")
    if beyond := [each.name for each in measures if each.beyond]:
        print(f"drift: B is beyond the threshold of {', '.join(beyond)}", file=sys.stderr)
        raise SystemExit(1)
