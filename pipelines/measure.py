"""Time and memory of the paper's points, on synthetic twins of its data sets: no DVC, no data, no polars.

Each point is trained for some steps, with a validation, by the training loop that `pipelines.train` uses. Its
measurement is appended to the results file as one row (schema: `cutrec.reporting.results_file`). Points with a row of
this device are skipped, so a run that was killed or ran out of minutes continues where it stopped. A point that does
not fit into memory gets a row too; on a GPU it is not tried if its predicted memory is far above what is available. A
point that needs more than the remaining minutes is left out in favor of shorter ones. Seconds per epoch are
extrapolated: mean step x steps of the full split, and in the same way for validation.

Examples:
    uv run python -m pipelines.measure --table 4,3 --dataset beauty --sharing none,tile --minutes 9
    uv run python -m pipelines.measure --table 4 --dataset beauty --profile traces --steps 5
"""

import gc
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from cutrec.arguments import make_parser, parse, positive_float, positive_int, some_of, whole_from
from cutrec.config_point import Config
from cutrec.console import prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.environment import environment
from cutrec.errors import ConfigError, StageError
from cutrec.nested import parse_overrides
from cutrec.reporting import results_file as results
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.points import Choices, Sharing
from pipelines.paper.steps import GIB, Effort, held_gib, measure, profile, result_of
from rec_models.errors import TrainingError

ORDER = (4, 3, 14, 13, 2, 6, 7, 5, 12, 15, 1, 11, 8, 9, 10)
"""The tables, the most informative ones for time and memory first."""
OUT = Path("results/training.csv")
SURELY = 1.3
"""A point is not tried if its predicted peak is above the GPU's memory times this factor."""
HELD_GIB = 1.0
"""What may stay allocated on the GPU from point to point; above a tenth of it the next row has a note."""
START_SECONDS = 5.0
"""Estimated time of a point before its first step."""
say = partial(print, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the points that have no row yet."""
    options = _parse(arguments)
    if options.profile:
        prepare_output_folder("--profile", options.profile)
    else:
        prepare_output_file("--out", options.out)
    todo = wanted_points(points.load(), options)
    where = environment()
    fewest = min(options.steps, Effort.fewest)
    effort = Effort(steps=options.steps, fewest=fewest, warmup=options.warmup, seconds=options.seconds)
    if options.profile:
        _profile(todo, effort, options.profile, options.extra)
        return
    known = results.done(options.out, str(where["device"]))
    missing = [point for point in todo if result_of(point, where).key not in known]
    for line in points.without_use(todo, options.extra):
        say(f"note: {line}")
    say(f"{len(todo)} points, {len(todo) - len(missing)} of them already in {options.out}")
    gc.collect()
    gc.freeze()  # the imported modules: garbage collection runs for each point and each recording
    started = time.perf_counter()
    for place, point in enumerate(missing, start=1):
        left = options.minutes - (time.perf_counter() - started) / 60
        if left < 0:
            say(f"{options.minutes:g} minutes are over: {len(missing) - place + 1} points are left, start again")
            return
        name = f"[{place}/{len(missing)}] {points.experiment_name(point)}"
        try:
            result = _measured(point, effort, where, left)
        except ValueError as error:  # settings in contradiction, such as CUDA graphs with a loss in plain torch
            say(f"{name}: passed over: {error}")
            continue
        if result is not None:
            results.append(options.out, result)
            say(f"{name}: {describe(result)} ({(time.perf_counter() - started) / 60:.1f} min)")
            _check_device()


def _profile(todo: Sequence[Config], effort: Effort, folder: Path, extra: dict[str, Any]) -> None:
    """Write a trace of each point's steps; the results file stays as it is, because profiled steps are slower."""
    for place, point in enumerate(todo, start=1):
        path = folder / f"{points.experiment_name(point, extra)}.json.gz"
        try:
            table = profile(point, effort, path)
        except (TrainingError, ValueError) as error:
            say(f"[{place}/{len(todo)}] {path.name}: {error}")
            continue
        say(f"{table}\n[{place}/{len(todo)}] {path}: {effort.steps} steps, for https://ui.perfetto.dev")


def _measured(point: Config, effort: Effort, where: dict[str, Any], minutes: float) -> results.Result | None:
    """The result of a point; None if it would take longer than the remaining minutes."""
    gpu_gib = _gpu_gib()
    if not gpu_gib:  # the predictions do not cover CPUs
        return measure(point, effort, where)
    planned = plan(point)
    if planned.memory.peak > SURELY * gpu_gib:
        reason = f"the planner counts {planned.memory.peak:.0f} GiB, the GPU has {gpu_gib:.0f}"
        return result_of(point, where, status="out of memory", note=f"not tried: {reason}")
    step = planned.seconds.step
    steps = effort.warmup + min(effort.steps, max(effort.fewest, effort.seconds / step))
    needed = START_SECONDS + step * steps
    if needed > 60 * minutes:
        say(f"left for another call: {points.experiment_name(point)} takes some {needed:.0f} s")
        return None
    return measure(point, effort, where)


def _gpu_gib() -> float:
    """Memory of the GPU in GiB; 0 without one."""
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0.0


def wanted_points(values: dict[str, Any], options: Namespace) -> list[Config]:
    """The points of the selected tables, in the given order, each once.

    Raises:
        ConfigError: an unknown table or data set, or a point that contradicts itself.
    """
    points.table_points(values, options.table, datasets=options.dataset)  # names what is unknown
    sharings: list[Sharing] = ["none"] if options.faithful else options.sharing
    choices = [
        Choices(twin=options.scale, sharing=sharing, paper_faithful=options.faithful, extra=options.extra)
        for sharing in sharings
    ]
    rows = [
        row
        for table in options.table or ORDER
        for choice in choices
        for row in points.table_points(values, [table], **choice)
        if not options.dataset or row.dataset in options.dataset
    ]
    found = [row.params for row in points.distinct(rows)]
    for point in found:
        if point.train.window is not None:
            raise ConfigError(
                f"train.window: found {point.train.window}, allowed: null, a twin's histories end at their last window"
            )
    return found


def describe(result: results.Result) -> str:
    """A result in one line."""
    if result.status != "ok":
        return f"{result.status}: {result.note}"
    return (
        f"{result.step_ms:.2f} ms a step ({result.step_ms_p10:.2f} to {result.step_ms_p90:.2f}, {result.steps_timed} "
        f"steps, {result.replayed_steps} replayed), epoch {result.epoch_seconds:.1f} s, whole "
        f"{result.whole_epoch_seconds:.1f} s, peak {result.peak_loop_gib:.2f} GiB, of the fit {result.peak_fit_gib:.2f}"
    )


def _check_device() -> None:
    """Refuse to go on if the GPU fails or the last point's memory is not free, which the next peak would include."""
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise StageError(f"the GPU no longer answers ({error}): start again, the rows so far are kept") from None
    if (held := held_gib()) > HELD_GIB:
        raise StageError(f"{held:.1f} GiB of the last point are still held: start again, the rows so far are kept")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = make_parser(str(__doc__), prog="python -m pipelines.measure")
    sharings = some_of(("none", "tile", "batch"))
    text = "of the paper, separated by commas, in this order (default: all)"
    parser.add_argument("--table", action="append", help=text)
    parser.add_argument("--dataset", action="append", help="only these, separated by commas")
    parser.add_argument("--sharing", type=sharings, default=["none", "tile"], help="who shares negatives: none,tile")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    text = "of the twins; only 1 says something about the paper"
    parser.add_argument("--scale", type=positive_float, default=1.0, help=text)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no point after this")
    parser.add_argument("--steps", type=whole_from(2), default=Effort.steps, help="most timed steps of a point")
    parser.add_argument("--warmup", type=positive_int, default=Effort.warmup, help="steps before them")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="of timed steps, from 10 steps on")
    parser.add_argument("--out", type=Path, default=OUT)
    text = "write traces of torch's profiler of --steps steps into this folder, and no results"
    parser.add_argument("--profile", type=Path, metavar="DIR", help=text)
    parser.add_argument("-S", dest="extra", action="append", metavar="KEY=VALUE", help="over the point")
    options = parse(parser, arguments)
    options.table, options.dataset = points.table_numbers(options.table), points.names_of(options.dataset)
    options.extra = parse_overrides(options.extra or [])
    return options


if __name__ == "__main__":
    run_and_exit(main)
