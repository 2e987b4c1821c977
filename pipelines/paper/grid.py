"""Queue the points of the paper's tables as DVC experiments.

Each point is one experiment, named after the point. Points that have been run, are running or are queued already, at
any commit, are passed over, and so are points that the planner predicts not to fit the GPU. Every token draws its own
negatives, as in the paper; ``--sharing tile`` shares them among neighbors. ``dvc exp run -S row=4/gowalla`` runs one
row.

Examples:
    uv run python -m pipelines.paper.grid --table 4 --dataset gowalla --dry-run
    uv run python -m pipelines.paper.grid --search --model sasrec --loss cce_neg --dataset beauty --gpu 24
    uv run dvc queue start -j 2        # then run them
"""

import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cutrec import config
from cutrec.arguments import make_parser, parse, positive_float, whole_from
from cutrec.config_point import as_written
from cutrec.console import run_and_exit
from cutrec.errors import ConfigError, StageError, UsageError
from cutrec.nested import merged, parse_overrides
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.experiments import STATES, Experiment, list_experiments, repository
from pipelines.paper.points import Choices, GridPoint, Sharing
from rec_models.encoders.registry import ENCODERS

VERDICTS = {
    "queue": ("queued", ""),
    "known": ("passed over", "passed over"),
    "failed": ("failed", "failed before"),
    "broken": ("no metrics", "without metrics"),
    "too large": ("too large", "too large for the GPU"),
}
"""What happens to a point: in its own line, and in the summary."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Queue the points of the command line that DVC does not have yet."""
    options = _parse(arguments)
    twin = options.scale or options.twin
    wanted = [point for extra in _of_seeds(options) for point in wanted_points(options, twin=twin, extra=extra)]
    wanted = wanted[share(options.part)]
    too_large = {} if options.anyway else misfits(wanted, options.gpu)

    counted: Counter[str] = Counter()
    with repository() as repo:
        known: dict[str, list[Experiment]] = {}
        for experiment in list_experiments(repo):
            known.setdefault(experiment.name, []).append(experiment)
        _note_edits()
        for line in points.without_use([point.params for point in wanted], options.extra):
            print(f"note: {line}")
        for point in wanted:
            verdict, why = decide(point, known.get(point.name, []), retry=options.retry)
            if verdict == "queue" and point.name in too_large:
                verdict, why = "too large", too_large[point.name]
            counted[verdict] += 1
            if verdict == "queue" and not options.dry_run:
                if why:
                    repo.experiments.celery_queue.remove([point.name])  # a name can be queued once
                repo.experiments.run(queue=True, name=point.name, params=points.overrides(point))
            done = "would queue" if verdict == "queue" and options.dry_run else VERDICTS[verdict][0]
            print(f"{done:<12} {point.name}{why and f': {why}'}", flush=True)
            if options.dry_run and options.verbose:
                print("             -S " + " -S ".join(points.overrides(point)))
    print(summary(counted, dry_run=options.dry_run))


def add_point_options(parser: ArgumentParser) -> None:
    """Declare the options that narrow or change the points of ``--table`` and ``--search``."""
    parser.add_argument("--dataset", action="append", help="only these, separated by commas")
    parser.add_argument("--model", choices=list(ENCODERS), help="of the search: sasrec")
    parser.add_argument("--loss", help="of the search: cce_neg")
    parser.add_argument("--sharing", choices=["none", "tile", "batch"], help="which tokens share negatives: none")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    parser.add_argument("-S", dest="extra", action="append", metavar="KEY=VALUE", help="over the points")
    parser.add_argument("--gpu", type=positive_float, default=80.0, help="GiB of the GPU (default: 80)")


def parse_points(parser: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse ``--table``, ``--search`` and the options of `add_point_options`; the others stay as they are.

    Raises:
        UsageError: one line that names the option.
        ConfigError: the same, of ``-S``.
    """
    options = parse(parser, arguments)
    for name in ("model", "loss"):
        if options[name] and not options.search:
            raise UsageError(f"--{name}: allowed with --search; -S {name}=... changes a point")
    options.table, options.dataset = points.table_numbers(options.table), points.names_of(options.dataset)
    options.extra = parse_overrides(options.extra or [])
    return options


def wanted_points(
    options: Namespace, *, twin: bool | float = False, extra: dict[str, Any] | None = None
) -> list[GridPoint]:
    """The points of a command line, each once; with the overrides `extra` in place of those of the command line.

    Raises:
        ConfigError: an unknown table or data set, or a point that contradicts itself.
    """
    values = points.load()
    sharing: Sharing = options.sharing or "none"
    extra = options.extra if extra is None else extra
    choices = Choices(twin=twin, sharing=sharing, paper_faithful=options.faithful, extra=extra)
    if not options.search:
        return points.distinct(points.table_points(values, options.table, datasets=options.dataset, **choices))
    if len(options.dataset) != 1:
        raise ConfigError(f"--dataset: found {len(options.dataset)} with --search, allowed: one")
    model, loss = options.model or "sasrec", options.loss or "cce_neg"
    return points.search_points(values, model=model, loss=loss, dataset=options.dataset[0], **choices)


def _of_seeds(options: Namespace) -> list[dict[str, Any]]:
    """The overrides of a command line, once for each seed; the paper's seed is none, and in no name."""
    usual = points.load()["grid"]["settings"]["seed"]
    return [merged(options.extra, {} if seed in (None, usual) else {"seed": seed}) for seed in options.seeds or [None]]


def _seeds(text: str | list[int]) -> list[int]:
    """The type of ``--seeds``."""
    if isinstance(text, list):  # the default
        return text
    return [whole_from(0)(seed) for seed in dict.fromkeys(text.split(","))]


def share(text: str) -> slice:
    """The points of one of several machines: of ``2/8`` every eighth, so that each machine gets large and small ones.

    Raises:
        UsageError: another text.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--part: found {text!r}, allowed: I/N with I from 1 to N, as in 2/8")
    return slice(int(part) - 1, None, int(parts))


def misfits(wanted: Sequence[GridPoint], gpu_gib: float) -> dict[str, str]:
    """The points that the planner predicts not to fit a GPU with so much memory: their names, each with the reason."""
    plans = {point.name: plan(point.params).memory for point in wanted}
    return {
        name: f"{memory.peak:.1f} GiB predicted, of {gpu_gib:g}; --anyway queues it"
        for name, memory in plans.items()
        if not memory.fits(gpu_gib)
    }


def decide(point: GridPoint, known: Sequence[Experiment], *, retry: bool) -> tuple[str, str]:
    """What happens to a point: a key of `VERDICTS`, and a reason or an empty text.

    The experiments of its name, at any commit, decide; of several the first state of `STATES`.

    Raises:
        StageError: an experiment of this name has other settings: DVC would silently keep only one of the two.
    """
    first = min(known, key=lambda experiment: STATES.index(experiment.state), default=None)
    if first is None:
        return "queue", ""
    if first.state == "failed":
        why = f"it failed before; `uv run dvc queue logs {point.name}` says why"
        return ("queue", why) if retry else ("failed", f"{why}, --retry queues it again")
    _refuse_other_settings(point, first)  # a failed task may have failed because of its settings
    if first.state == "finished" and not first.has_metrics:
        return "broken", f"it finished without metrics; `uv run dvc exp remove {point.name}`, then again"
    return "known", f"{first.state}, commit {first.baseline[:7]}"


def summary(counted: Counter[str], *, dry_run: bool) -> str:
    """One line with the counts of each verdict, and the next command."""
    queued = counted["queue"]
    parts = [f"{queued} {'to queue' if dry_run else 'queued'}"]
    parts += [f"{counted[key]} {words}" for key, (_, words) in VERDICTS.items() if words and counted[key]]
    said = f"{sum(counted.values())} points: {', '.join(parts)}"
    return f"{said}; next: uv run dvc queue start" if queued and not dry_run else said


def _refuse_other_settings(point: GridPoint, experiment: Experiment) -> None:
    remove = f"`uv run dvc exp remove {point.name}` (or `dvc queue remove` while it waits) makes room"
    try:
        theirs = as_written(config.from_mapping(experiment.params))
    except ConfigError as error:
        raise StageError(f"{point.name}: an experiment of this name has other parameters ({error}); {remove}") from None
    ours = as_written(point.params)
    for key in sorted(point.decided & ours.keys()):
        if theirs[key] != ours[key]:
            raise StageError(
                f"{point.name}: an experiment of this name has {key}={theirs[key]}, found here {ours[key]}; {remove}"
            )


def _note_edits() -> None:
    """Print a note if the experiments take values from an edited params.yaml."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "params.yaml"]
    if subprocess.run(command, check=False).returncode == 1:  # noqa: S603
        print("note: params.yaml differs from the last commit; what a point does not set is taken from it")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = make_parser(str(__doc__), prog="python -m pipelines.paper.grid")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", action="append", help="of the paper, 1 to 15, separated by commas")
    what.add_argument("--all", action="store_true", help="all tables")
    what.add_argument("--search", action="store_true", help="the paper's search grid of --model, --loss and --dataset")
    add_point_options(parser)
    parser.add_argument("--twin", action="store_true", help="synthetic twins in place of the data")
    parser.add_argument("--scale", type=positive_float, help="twins of another size, 1 is the published one")
    parser.add_argument("--anyway", action="store_true", help="also what is predicted not to fit")
    parser.add_argument("--retry", action="store_true", help="also what failed before")
    text = "one experiment per seed, as in 1,2,3; `pipelines.paper.tables` shows their mean and deviation"
    parser.add_argument("--seeds", type=_seeds, default=[], metavar="SEEDS", help=text)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of N machines' shares")
    parser.add_argument("--dry-run", action="store_true", help="say what would be queued")
    parser.add_argument("--verbose", action="store_true", help="with --dry-run: the settings of each point")
    return parse_points(parser, arguments)


if __name__ == "__main__":
    run_and_exit(main)
