"""Evaluate in several successive windows of the log in data/download, with a model for each or one for all.

The last window ends with the log. Each holds the share split.test_fraction of the interactions, or --days days. A model
is trained for each window on what lies before it; with --rolled the model of the first window is evaluated in all of
them; with --updated it is updated before each window by the events of the window before (cutrec update). After the
first and one of the others, with the same settings, the tables compare the two. A backtest that was stopped or killed
goes on at the next start. Writes windows.csv, training.csv, means.csv, ndcg.png and backtest.html, and a folder per
window.

Examples:
    uv run cutrec backtest --windows 4
    uv run cutrec backtest --windows 4 --rolled           # does the model of the first window last?
    uv run cutrec backtest --windows 4 --updated          # how good is an update, and how quick?
    uv run cutrec backtest --windows 8 --days 7 -S loss=cce_neg
"""

import shlex
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, positive_int, whole_from
from cutrec.config import PRESET_KEYS, from_mapping, read_yaml, refuse_contradictions
from cutrec.console import prepare_output_folder
from cutrec.errors import StageError
from cutrec.nested import changed
from cutrec.outputs import read_json
from cutrec.paths import BACKTEST, LOG, PARAMS, checkpoint_folder
from cutrec.reporting.text_table import render
from rec_data.locks import locked

CHANGES = (*PRESET_KEYS, "preset", "seed", "impl", "split", "evaluate")
"""The keys of params.yaml, or sections of it, that may be changed for a backtest."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--windows", type=whole_from(2), default=4, help="how many (default: 4)")
    parser.add_argument("--days", type=positive_int, help="length of a window, instead of split.test_fraction")
    text = "evaluate the first window's model in all windows"
    parser.add_argument("--rolled", action="store_true", help=text)
    text = "evaluate the first window's model with an update before each later window"
    parser.add_argument("--updated", action="store_true", help=text)
    text = "change of params.yaml: split.test_fraction=0.05, preset=..., loss=..., ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", metavar="KEY=VALUE", help=text)
    text = f"folder of the results (default: {BACKTEST})"
    parser.add_argument("--out", type=local_file, default=BACKTEST, help=text)


def run(options: Namespace) -> None:
    """Run the windows that are missing, write the tables and print one."""
    if options.rolled and options.updated:
        raise StageError("--rolled: found it with --updated, allowed: one of the two at a time; the tables have both")
    prepare_output_folder("--out", options.out)
    changes = options.changes or []
    config = from_mapping(changed(read_yaml(PARAMS), changes, CHANGES))
    refuse_contradictions(config)
    cure = "allowed: the log of the current point, which `dvc repro download` makes"
    if not LOG.is_file():
        raise StageError(f"{LOG}: found no log, {cure}")
    if (known := read_json(LOG.with_name("summary.json"))["dataset"]) != config.dataset:
        raise StageError(f"{LOG}: found the log of {known}, dataset is {config.dataset}, {cure}")

    from cutrec.reporting.backtest import difference, kept, table, write_backtest
    from cutrec.reporting.backtest_results import read_training
    from cutrec.workflow.backtest import backtest

    out = options.out
    later = "rolled" if options.rolled else "updated" if options.updated else "retrained"
    kind = {"windows": options.windows, "days": options.days, "later": later}
    words = ["uv run cutrec backtest", f"--windows {options.windows}"]
    words += [f"--days {options.days}"] if options.days else []
    command = " ".join([*words, *(f"-S {shlex.quote(change)}" for change in changes)])
    title = f"Backtest of {Path(config.dataset).name}: {options.windows} windows"
    with locked(out):  # a second backtest in this folder waits, and does not repeat what this one has completed
        results = backtest(config, LOG, out, checkpoints=checkpoint_folder(), **kind)
        training = read_training(out, options.windows)
        there = {value.trained for result in results for value in result}
        flags = {"per window": "", "once": " --rolled", "updated": " --updated"}
        commands = [command + flag for kind, flag in flags.items() if kind in there]
        write_backtest(results, training, out, title=title, command="\n".join(commands))
    header, *rows = table(results)
    print("NDCG@10, with 95 % intervals over the users of a window, and of the mean over windows")
    print(render(header, rows, left=2))
    for sentence in (difference(results), kept(results, training)):
        if sentence:
            print(sentence)
    tables = ", ".join(f"{name}.csv" for name in ("windows", "means", "training"))
    print(f"page: {out / 'backtest.html'}, picture: {out / 'ndcg.png'}, tables: {tables}")
