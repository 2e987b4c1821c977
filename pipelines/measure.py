"""Time and memory of the paper's points, on synthetic twins of its data sets: no DVC, no data, no polars.

    python -m pipelines.measure [--tables 4,3] [--datasets beauty] [--sharing none,tile] [--minutes 9]
        [--out results/training.csv] [-S train.cuda_graphs=true]

Trains each point for some steps through the training loop that `pipelines.train` uses, validation included, and appends
one row to the results file (schema: `pipelines.results`). Rows that are there already, of the same device, are passed
over: a run that was killed or ran out of minutes goes on where it stopped. A point that does not fit in memory is a row
too. Seconds of an epoch are extrapolated: mean step x steps of the whole split, and likewise for validation.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import params, points, results, stage
from pipelines.environment import environment
from pipelines.nested import parse_overrides

if TYPE_CHECKING:
    from rec_models.backbones import Encoder
    from rec_models.measuring import StepTimes
    from rec_models.settings import ModelSettings

ORDER = (4, 3, 14, 13, 2, 6, 7, 5, 12, 15, 1, 11, 8, 9, 10)
"""The tables, those first that matter most for time and memory."""
OUT = Path("results/training.csv")
VALIDATION_USERS = 4096
"""Users that validation is timed on; seconds of the whole validation are extrapolated from them."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure a point."""

    steps: int = 30
    """Timed steps at most."""
    fewest: int = 10
    """Timed steps at least, whatever they take."""
    warmup: int = 10
    seconds: float = 10.0
    """Of timed steps, after which no further one is begun."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and not yet there."""
    options = _parse(arguments)
    if options.scale <= 0:
        raise stage.StageError(f"--scale: found {options.scale:g}, allowed: a number above 0")
    stage.room_for_file("--out", options.out)
    todo = wanted_points(points.load(), options)
    where = environment()
    effort = Effort(options.steps, min(options.steps, Effort.fewest), options.warmup, options.seconds)
    known = results.done(options.out, str(where["device"]))
    missing = [point for point in todo if _key(point, where) not in known]
    _say(f"{len(todo)} points, {len(todo) - len(missing)} of them already in {options.out}")
    started = time.perf_counter()
    for place, point in enumerate(missing, start=1):
        minutes = (time.perf_counter() - started) / 60
        if minutes > options.minutes:
            _say(f"{options.minutes:g} minutes are over: {len(missing) - place + 1} points are left, start again")
            return
        try:
            result = measure(point, effort, where)
        except ValueError as error:  # settings in contradiction, such as CUDA graphs with a loss in plain torch
            _say(f"[{place}/{len(missing)}] passed over {points.experiment_name(point)}: {error}")
            continue
        results.append(options.out, result)
        minutes = (time.perf_counter() - started) / 60
        _say(f"[{place}/{len(missing)}, {minutes:.1f} min] {points.experiment_name(point)}: {describe(result)}")
        _check_device(result)


def wanted_points(values: dict[str, Any], options: argparse.Namespace) -> list[params.Params]:
    """The points of the tables asked for, in the order asked for, each once.

    Args:
        values: the mapping of params.yaml.
        options: tables, datasets, sharing, scale, faithful, extra.

    Raises:
        ParamsError: an unknown table or data set, or a point that contradicts itself.
    """
    points.table_points(values, options.tables, datasets=options.datasets)  # names what is unknown
    sharings: list[points.Sharing] = ["none"] if options.faithful else options.sharing
    found: dict[str, params.Params] = {}
    for table in options.tables:
        for sharing in sharings:
            rows = points.table_points(
                values,
                [table],
                twin=options.scale,
                sharing=sharing,
                paper_faithful=options.faithful,
                extra=options.extra,
            )
            kept = [row for row in rows if not options.datasets or row.dataset in options.datasets]
            found |= {row.name: row.params for row in kept if row.name not in found}
    for point in found.values():
        if point.train.window is not None:
            raise params.ParamsError(
                f"train.window: found {point.train.window}, allowed: null, a twin's histories end at their last window"
            )
    return list(found.values())


def measure(point: params.Params, effort: Effort, where: dict[str, Any]) -> results.Result:
    """Train a point for some steps.

    Args:
        point: of a twin.
        effort: how long.
        where: fields of the result, as `pipelines.environment` has them.

    Returns:
        The result; its status says so if memory ran out or something failed.

    Raises:
        ValueError: the settings contradict each other.
    """
    import torch

    from rec_models.errors import TrainingError
    from rec_models.memory import is_out_of_memory

    fields = {**where, "precision": _precision(point)}
    try:
        fields |= _train(point, effort)
    except TrainingError as error:
        cause = error.__cause__
        status = "out of memory" if cause is not None and is_out_of_memory(cause) else "failed"
        fields |= {"status": status, "note": str(error)}
    except (RuntimeError, MemoryError) as error:
        status = "out of memory" if is_out_of_memory(error) else "failed"
        fields |= {"status": status, "note": f"{type(error).__name__}: {str(error)[:300]}"}
    fields["measured_at"] = results.now()
    gc.collect()  # modules and their tensors, held by the frames of an exception
    if torch.cuda.is_available() and fields.get("status") != "failed":
        torch.cuda.empty_cache()
    return results.Result.of(point, "training", **fields)


def describe(result: results.Result) -> str:
    """A result in a few words."""
    if result.status != "ok":
        return f"{result.status}: {result.note}"
    return (
        f"{result.step_ms:.2f} ms a step ({result.step_ms_p10:.2f} to {result.step_ms_p90:.2f}, {result.steps_timed} "
        f"steps), epoch {result.epoch_seconds:.1f} s, whole {result.whole_epoch_seconds:.1f} s, "
        f"peak {result.peak_loop_gib:.2f} GiB, of the fit {result.peak_fit_gib:.2f}"
    )


def _train(point: params.Params, effort: Effort) -> dict[str, Any]:
    """Time and memory of a point, as fields of a result."""
    import torch

    from pipelines import train
    from pipelines.twin_logs import twin_log
    from rec_models.measuring import measure_steps

    log = twin_log(point)
    batches = (effort.warmup + effort.steps) * point.train.accumulate * point.train.devices
    store = log.train_store(point.batch_size * batches, point.max_seq_len + 1, point.seed)
    ranked = min(VALIDATION_USERS, log.validation_users)
    held_out = log.validation_store(ranked, point.max_seq_len, point.seed)
    warm_up = log.validation_store(min(ranked, point.evaluate.batch_users), point.max_seq_len, point.seed + 1)
    seconds: list[float] = []

    def validate(encoder: Encoder) -> dict[str, float]:
        device = encoder.item_table.device
        train.make_validation(point, warm_up)(encoder)
        started = _now(device)
        train.make_validation(point, held_out)(encoder)
        seconds.append(_now(device) - started)
        return {}

    times = measure_steps(
        model=train.model_settings(point),
        loss=train.loss_settings(point),
        training=train.training_settings(point),
        num_items=log.num_items,
        train_batches=train.make_batches(point, store, log.num_items),
        item_counts=torch.from_numpy(log.item_counts),
        validate=validate,
        warmup=effort.warmup,
        warmup_seconds=effort.seconds / 4,
        steps=effort.steps,
        min_steps=effort.fewest,
        max_seconds=effort.seconds,
        build=_on_gpu if torch.cuda.is_available() else None,
    )
    steps = math.ceil(log.train_users / (point.batch_size * point.train.accumulate * point.train.devices))
    loop = steps * times.mean_ms / 1e3
    validation = seconds[0] * log.validation_users / ranked
    return {
        **step_fields(times),
        "num_items": log.num_items,
        "train_users": log.train_users,
        "validation_users": log.validation_users,
        "steps_per_epoch": steps,
        "epoch_seconds": round(loop, 4),
        "validation_seconds": round(validation, 4),
        "whole_epoch_seconds": round(loop + validation, 4),
        "epoch_basis": "extrapolated",
        "peak_fit_gib": round(times.fit_peak_gib, 4),
    }


def step_fields(times: StepTimes) -> dict[str, float | int]:
    """Times of steps as fields of `pipelines.results.Result`."""
    return {
        "steps_timed": times.steps,
        "warmup_steps": times.warmup,
        "tokens_per_step": round(times.tokens, 1),
        "most_tokens": times.most_tokens,
        "step_ms": round(times.step_ms, 4),
        "step_ms_p10": round(times.p10_ms, 4),
        "step_ms_p90": round(times.p90_ms, 4),
        "mean_step_ms": round(times.mean_ms, 4),
        "peak_loop_gib": round(times.loop_peak_gib, 4),
    }


def _on_gpu(settings: ModelSettings, num_items: int) -> Encoder:
    """A new network whose weights are drawn on the GPU: seconds less for millions of items."""
    import torch

    from rec_models.backbones import build_encoder

    with torch.device("cuda"):
        return build_encoder(settings, num_items)


def _now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _precision(point: params.Params) -> str:
    import torch

    return point.train.precision if torch.cuda.is_available() else "32-true"


def _key(point: params.Params, where: dict[str, Any]) -> tuple[object, ...]:
    return results.Result.of(point, "training", **{**where, "precision": _precision(point)}).key


def _check_device(result: results.Result) -> None:
    """After an error that was not memory, go on only if the GPU still answers.

    Raises:
        StageError: it does not: an illegal access leaves a process without its GPU.
    """
    import torch

    if result.status != "failed" or not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise stage.StageError(f"the GPU no longer answers ({error}): start again, the rows so far are kept") from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.measure", description=str(__doc__).splitlines()[0])
    parser.add_argument("--tables", type=_numbers, default=list(ORDER), help="which, in this order")
    parser.add_argument("--datasets", type=_names, default=[], help="only these")
    parser.add_argument("--sharing", type=_sharings, default=["none", "tile"], help="who shares negatives: none,tile")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    parser.add_argument("--scale", type=float, default=1.0, help="of the twins; only 1 says something about the paper")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no point after this")
    parser.add_argument("--steps", type=int, default=Effort.steps, help="timed steps of a point at most")
    parser.add_argument("--warmup", type=int, default=Effort.warmup, help="steps before them")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="of timed steps, from 10 steps on")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("-S", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="over the point")
    options = parser.parse_args(arguments)
    if options.steps < 2 or options.warmup < 1:
        parser.error("--steps: allowed: from 2, and --warmup from 1")
    options.extra = parse_overrides(options.extra)
    return options


def _numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: numbers of tables by commas, as 4,3")
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _sharings(text: str) -> list[str]:
    found = text.split(",")
    if not set(found) <= {"none", "tile", "batch"}:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: none, tile, batch, by commas")
    return found


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)


if __name__ == "__main__":
    stage.run(main)
