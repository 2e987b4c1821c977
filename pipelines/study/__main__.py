"""The accuracy study: search, final seeds and step times; resumable, several trainings at once. No DVC, no polars.

`pipelines.study.trials` says what is run, `pipelines.study.scheduler` runs it. Trials that have a row are not run
again: delete a row to repeat its trial. The search uses only validation targets.

Examples:
    uv run python -m pipelines.study prepare --data splits ml_1m=ml-1m.parquet
    uv run python -m pipelines.study run --data splits --rows study.jsonl --datasets ml_1m --jobs 8 --minutes 9
    uv run python -m pipelines.study summarise --rows study.jsonl --out results
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from cutrec.arguments import make_parser, parse, positive_float, positive_int, some_of
from cutrec.config import from_mapping
from cutrec.console import prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, read_json
from cutrec.paths import live_checkout
from pipelines.study import runs
from pipelines.study.scheduler import Scheduler
from pipelines.study.trials import KINDS, SEARCHES, Trial

DATASETS = tuple(search.dataset for search in SEARCHES)
VERBS = {
    "prepare": "Split logs, leave-one-out",
    "run": "Run the trials that have no row yet",
    "trial": "Run one trial, as `run` starts it",
    "summarise": "Write the tables, the picture and the presets",
}
CONTENDERS = sorted({name for search in SEARCHES for name in search.contenders})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands."""
    options = _parse(arguments)
    if options.verb in ("run", "trial"):
        prepare_output_file("--rows", options.rows)
    if options.verb == "prepare":
        prepare(options.logs, options.data)
    elif options.verb == "run":
        for name in options.datasets:
            if not (options.data / name / "items.parquet").is_file():
                allowed = "allowed: what `prepare` made; --datasets names a part"
                raise StageError(f"--data: found no split of {name} in {options.data}, {allowed}")
        which = (options.kinds, options.datasets, options.contenders)
        Scheduler(options.data, options.rows, options.minutes, options.jobs, *which).run()
    elif options.verb == "trial":
        try:
            trial = Trial(**json.loads(options.trial))
            json.loads(trial.settings)
        except (TypeError, ValueError):
            allowed = "allowed: JSON of a trial, as `run` passes it"
            raise StageError(f"trial: found {options.trial!r}, {allowed}") from None
        runs.append(options.rows, runs.run(trial, options.data))
    else:
        from pipelines.study.summary import summarise

        if not options.rows.is_file():
            wrote = "what `python -m pipelines.study run` wrote"
            raise StageError(f"--rows: found no {options.rows}, allowed: {wrote}")
        prepare_output_folder("--out", options.out)
        for path in summarise(runs.read(options.rows), options.out, options.page):
            print(path)


def prepare(logs: Sequence[str], data: Path) -> None:
    """Split logs leave-one-out, each into a folder of its name; a log is what ``dataset`` of params.yaml takes.

    Raises:
        StageError: a text is not ``NAME=LOG``.
    """
    from cutrec.workflow.fetch import fetch
    from cutrec.workflow.split import split

    for text in logs:
        name, equals, log = text.partition("=")
        if not name or not equals:
            raise StageError(f"prepare: found {text!r}, allowed: NAME=LOG")
        point = from_mapping({"dataset": log, "split": {"strategy": "leave_one_out"}})
        with atomic_folder(data / name) as out, tempfile.TemporaryDirectory() as folder:
            fetch(point, Path(folder) / "log.parquet", root=live_checkout())
            split(point, Path(folder) / "log.parquet", out)
            for part in ("train", "validation"):
                (out / f"{part}.parquet").unlink()  # the export for other programs; this folder is copied to machines
            summary = read_json(out / "summary.json")
            print(f"{name}: {summary['users']:,} users, {summary['items']:,} items")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    """The options of the chosen command, and its name as ``verb``."""
    parser = make_parser(str(__doc__), prog="python -m pipelines.study")
    examples = str(__doc__).rpartition("\n\n")[2]
    prepare, run, trial, summarise = commands = [make_parser(f"{text}.\n\n{examples}") for text in VERBS.values()]
    prepare.add_argument("logs", nargs="+", metavar="NAME=LOG")
    trial.add_argument("trial", help="JSON of a Trial")
    for command in (prepare, run, trial):
        command.add_argument("--data", type=Path, required=True, help="a folder with a split a data set")
    for command in (run, trial, summarise):
        command.add_argument("--rows", type=Path, required=True, help="the file of rows, JSON lines")
    run.add_argument("--minutes", type=positive_float, default=math.inf, help="kill what still runs after this")
    run.add_argument("--jobs", type=positive_int, default=1, help="trainings at once")
    for name, known in (("kinds", KINDS), ("datasets", DATASETS), ("contenders", CONTENDERS)):
        default = [] if name == "contenders" else list(known)
        run.add_argument(f"--{name}", type=some_of(known), default=default, help=",".join(known))
    summarise.add_argument("--out", type=Path, required=True, help="a folder")
    summarise.add_argument("--page", type=Path, help="a page whose table of accuracy is brought up to date")
    subcommands = parser.add_subcommands(dest="verb", required=True)
    for name, command in zip(VERBS, commands, strict=True):
        subcommands.add_subcommand(name, command)
    options = parse(parser, arguments)
    options.update(options.pop(options.verb))
    return options


if __name__ == "__main__":
    run_and_exit(main)
