"""Queue the points of the paper's tables as DVC experiments.

    python -m pipelines.paper.grid --table 4 [--dataset gowalla] [--twin] [--sharing tile] [--dry-run]
    python -m pipelines.paper.grid --search --model sasrec --loss cce_neg --dataset beauty [--gpu 24]
    uv run dvc queue start [-j 2]        # then run them

Each point is one experiment, named after the point. Points that have been run, are running or are queued already, at
any commit, are passed over, and so are points that the planner predicts not to fit the GPU. Every token draws its own
negatives, as in the paper; ``--sharing tile`` shares them among neighbors.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutrec import config
from cutrec.console import run_and_exit
from cutrec.errors import StageError
from cutrec.nested import flatten, parse_overrides
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.points import GridPoint
from pipelines.paper.settings import Choices

if TYPE_CHECKING:
    from pipelines.paper.experiments import Experiment

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
    wanted = part_of(points.distinct(wanted_points(options)), *options.part)
    too_large = {} if options.anyway else misfits(wanted, options.gpu)

    from pipelines.paper import experiments

    counted: Counter[str] = Counter()
    with experiments.repository() as repo:
        known: dict[str, list[Experiment]] = {}
        for experiment in experiments.list_experiments(repo):
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
                    experiments.forget_failed(repo, point.name)
                experiments.queue(repo, point.name, points.overrides(point))
            done = "would queue" if verdict == "queue" and options.dry_run else VERDICTS[verdict][0]
            print(f"{done:<12} {point.name}{why and f': {why}'}", flush=True)
            if options.dry_run and options.verbose:
                print("             -S " + " -S ".join(points.overrides(point)))
    print(summary(counted, dry_run=options.dry_run))


def wanted_points(options: argparse.Namespace) -> list[GridPoint]:
    """The points of the command line.

    Raises:
        ConfigError: an unknown table or data set, or a point that contradicts itself.
    """
    values = points.load()
    choices = Choices(
        twin=options.scale if options.scale is not None else options.twin,
        sharing=options.sharing,
        paper_faithful=options.faithful,
        extra=options.extra,
    )
    if not options.search:
        return points.table_points(values, options.table, datasets=options.dataset, **choices)
    if len(options.dataset) != 1:
        raise config.ConfigError(f"--dataset: found {len(options.dataset)} with --search, allowed: one")
    return points.search_points(values, model=options.model, loss=options.loss, dataset=options.dataset[0], **choices)


def part_of(wanted: Sequence[GridPoint], part: int, parts: int) -> list[GridPoint]:
    """The share of machine ``part`` (from 1) of ``parts``: every n-th point, so that each gets large and small ones."""
    return list(wanted[part - 1 :: parts])


def misfits(wanted: Sequence[GridPoint], gpu_gib: float) -> dict[str, str]:
    """The points that the planner predicts not to fit the GPU: their names, each with the reason.

    Args:
        wanted: points of published data sets or of their twins.
        gpu_gib: memory of the GPU.
    """
    found = {}
    for point in wanted:
        memory = plan(point.params).memory
        if not memory.fits(gpu_gib):
            found[point.name] = f"{memory.peak:.1f} GiB predicted, of {gpu_gib:g}; --anyway queues it"
    return found


def decide(point: GridPoint, known: Sequence[Experiment], *, retry: bool) -> tuple[str, str]:
    """What happens to a point, and why.

    Args:
        point: the point to queue.
        known: the experiments of its name, at any commit.
        retry: queue failed experiments again.

    Returns:
        A key of `VERDICTS`, and a reason or an empty text.

    Raises:
        StageError: an experiment of this name has other settings: DVC would silently keep only one of the two.
    """
    for state in ("finished", "running", "queued", "failed"):
        for experiment in known:
            if experiment.state != state:
                continue
            if state != "failed":  # a failed task may have failed because of its settings
                _refuse_other_settings(point, experiment)
            if state == "finished" and not experiment.has_metrics:
                return "broken", f"it finished without metrics; `uv run dvc exp remove {point.name}`, then again"
            if state == "failed":
                why = f"it failed before; `uv run dvc queue logs {point.name}` says why"
                return ("queue", why) if retry else ("failed", f"{why}, --retry queues it again")
            return "known", f"{state}, commit {experiment.baseline[:7]}"
    return "queue", ""


def summary(counted: Counter[str], *, dry_run: bool) -> str:
    """One line with the counts of each verdict, and the next command."""
    queued = counted["queue"]
    parts = [f"{queued} {'to queue' if dry_run else 'queued'}"]
    parts += [f"{counted[key]} {words}" for key, (_, words) in VERDICTS.items() if words and counted[key]]
    said = f"{sum(counted.values())} points: {', '.join(parts)}"
    return f"{said}; next: uv run dvc queue start" if queued and not dry_run else said


def _refuse_other_settings(point: GridPoint, experiment: Experiment) -> None:
    theirs, ours = flatten(experiment.params), flatten(point.values)
    for key, value in ours.items():
        if key in theirs and theirs[key] != (list(value) if isinstance(value, tuple) else value):
            raise StageError(
                f"{point.name}: an experiment of this name has {key}={theirs[key]}, found here {value}; "
                f"`uv run dvc exp remove {point.name}` (or `dvc queue remove` while it waits) makes room"
            )


def _note_edits() -> None:
    """Print a note if the experiments take values from an edited params.yaml."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "params.yaml"]
    if subprocess.run(command, check=False).returncode == 1:  # noqa: S603
        print("note: params.yaml differs from the last commit; what a point does not set is taken from it")


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: I/N with I from 1 to N, as in 2/8")
    return int(part), int(parts)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.paper.grid", description=str(__doc__).splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", type=int, action="append", help="of the paper, 1 to 15; may be given several times")
    what.add_argument("--all", action="store_true", help="all tables")
    what.add_argument("--search", action="store_true", help="the paper's search grid of --model, --loss and --dataset")
    parser.add_argument("--dataset", action="append", default=[], help="only this; may be given several times")
    parser.add_argument("--model", choices=["sasrec", "bert4rec"], help="of the search: sasrec")
    parser.add_argument("--loss", help="of the search: cce_neg")
    parser.add_argument("--twin", action="store_true", help="synthetic twins in place of the data")
    parser.add_argument("--scale", type=float, help="twins of another size, 1 is the published one")
    parser.add_argument("--sharing", choices=["none", "tile", "batch"], default="none", help="who shares negatives")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    parser.add_argument("-S", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="over the points")
    parser.add_argument("--gpu", type=float, default=80.0, help="GiB of the GPU that will run them")
    parser.add_argument("--anyway", action="store_true", help="also what is predicted not to fit")
    parser.add_argument("--retry", action="store_true", help="also what failed before")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="the I-th of N machines' shares")
    parser.add_argument("--dry-run", action="store_true", help="say what would be queued")
    parser.add_argument("--verbose", action="store_true", help="with --dry-run: the settings of each point")
    options = parser.parse_args(arguments)
    if options.scale is not None and options.scale <= 0:
        parser.error("--scale: allowed: a number above 0")
    for name in ("model", "loss"):
        if getattr(options, name) and not options.search:
            parser.error(f"--{name}: allowed with --search; -S {name}=... changes a point")
    options.model, options.loss = options.model or "sasrec", options.loss or "cce_neg"
    options.table = options.table or []
    options.extra = parse_overrides(options.extra)
    return options


if __name__ == "__main__":
    run_and_exit(main)
