"""Whole training steps on batches shaped like the paper's data sets: time, waiting for data, peak memory.

    python packages/rec-models/benchmarks/step.py OUT.csv [--points beauty,zvuk] [--losses cce,cce_neg/tile]
        [--variants eager,graphs] [--profile DIR] [--seconds 250]

Runs `rec_models.training.loop.fit` itself, so the figures include the prefetch threads and the optimizer. OUT.csv gets
one row per measurement, the most important ones first; rows that it already holds (of the same GPU and revision) are
not measured again. Where a loss is measured in several ways that must not change it, their losses are compared.
`--profile` also writes tables of kernels; `--seconds` starts nothing new after that time.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
from step_bounds import copy_tb_s, floor_ms, lookup_gradient_ms, matmul_tflops
from step_points import DISTINCT, POINTS, Point, SyntheticBatches
from step_profile import PROFILED, Profiler
from step_profile import write as write_profile
from step_results import SHOWN, environment, misses, read_rows, write_rows, write_table

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import TrainingError
from rec_models.training.benchmark import StepTimes, measure_steps

WARMUP = 2 * DISTINCT + 2  # each size of batch is seen twice before a graph of it is replayed
STEPS, SECONDS_A_ROW = 40, 4.0
VARIANTS: dict[str, dict[str, object]] = {
    "eager": {"cuda_graphs": False},
    "graphs": {"cuda_graphs": True},
    "compile": {"compile": True, "cuda_graphs": False},
    "compile+graphs": {"compile": True, "cuda_graphs": True},
    "adam_bf16": {"optimizer": "adam_bf16"},
    "adam_rowwise": {"optimizer": "adam_rowwise"},
    "adam_lazy": {"optimizer": "adam_lazy"},
}
PROFILES = (("cce_neg/tile", "graphs"), ("cce_neg/tile", "compile+graphs"), ("cce", "graphs"))
SAME_LOSS = 0.03  # of each other; dropout falls on other places where batches are filled up


class Case(NamedTuple):
    """A row to measure."""

    point: str
    loss: str  # with its sharing: cce_neg/tile
    variant: str


def cases() -> list[Case]:
    """All rows, the most important first."""
    twins = [name for name in POINTS if name not in ("large", "tiny")]
    main = ("eager", "graphs", "compile", "compile+graphs")
    rows = [Case(twin, "cce_neg/tile", variant) for variant in main[:2] for twin in twins]
    rows += [Case(twin, "cce", "graphs") for twin in twins]
    rows += [Case("large", "cce_neg/tile", variant) for variant in ("adam_rowwise", "adam_lazy", "graphs")]
    rows += [Case(twin, "cce_neg/tile", variant) for variant in main[2:] for twin in twins]
    rows += [Case(twin, "cce", "compile+graphs") for twin in twins]
    rows += [Case("zvuk", "cce_neg/tile", variant) for variant in ("adam_bf16", "adam_rowwise", "adam_lazy")]
    rows += [Case("beauty", "cce_neg/tile", variant) for variant in ("adam_rowwise", "adam_lazy")]
    rows += [Case(twin, "cce_neg/none", "graphs") for twin in twins]
    rows += [Case(twin, loss, "eager") for loss in ("ce", "sce") for twin in ("beauty", "movielens_20m")]
    rows += [Case("zvuk", "sce", "eager")]
    rows += [Case("large", "cce", "adam_rowwise")]
    return rows


def measure(case: Case, profiler: Profiler | None) -> StepTimes:
    """Time one row, or profile it."""
    point = POINTS[case.point]
    loss, _, sharing = case.loss.partition("/")
    return measure_steps(
        model=ModelSettings(hidden=point.hidden, max_seq_len=point.max_seq_len),
        loss=LossSettings.pick(loss, num_negatives=point.negatives, sharing=sharing or "none"),
        training=TrainingSettings(**VARIANTS[case.variant]),  # type: ignore[arg-type]
        num_items=point.items,
        train_batches=SyntheticBatches(point, WARMUP + STEPS),
        warmup=WARMUP,
        steps=STEPS if profiler is None else PROFILED + 2,
        max_seconds=SECONDS_A_ROW if profiler is None else math.inf,
        on_batch=profiler,
        build=on_gpu if torch.cuda.is_available() else None,
    )


def row_of(case: Case, times: StepTimes | None, note: str) -> dict[str, object]:
    """What the CSV says of a measurement."""
    point = POINTS[case.point]
    row: dict[str, object] = {
        "point": case.point,
        "loss": case.loss,
        "variant": case.variant,
        "V": point.items,
        "D": point.hidden,
        "batch": f"{point.batch_size}x{point.max_seq_len}",
        "N": point.negatives if "_neg" in case.loss else 0,
    }
    if times is not None:
        row |= {
            "tokens": round(times.tokens),
            "steps": times.steps,
            "step_ms": round(times.step_ms, 3),
            "low_ms": round(times.low_ms, 3),
            "high_ms": round(times.high_ms, 3),
            "mean_ms": round(times.mean_ms, 3),
            "wait_share": round(times.wait_share, 4),
            "loop_peak_gib": round(times.loop_peak_gib, 3),
            "fit_peak_gib": round(times.fit_peak_gib, 3),
            "loss_of_step": round(times.loss, 4),
        }
        row |= _goals(case, times, point)
    return row | {"note": note}


def _goals(case: Case, times: StepTimes, point: Point) -> dict[str, object]:
    goals: dict[str, object] = {"limit_gib": point.limit_gib}
    if case.loss == "cce_neg/tile":
        goals |= {"must_ms": point.must_ms, "aim_ms": point.aim_ms}
    floor = floor_ms(point, case.loss, times.tokens)
    if VARIANTS[case.variant].get("optimizer", "adam") == "adam" and not math.isnan(floor):
        goals |= {"floor_ms": round(floor, 3), "over_floor": round(times.step_ms / floor, 2)}
    return goals


def compare_losses(rows: list[dict[str, object]]) -> list[str]:
    """What is wrong with the losses: a number that is none, or variants of one thing that differ."""
    wrong = []
    first: dict[tuple[object, object], float] = {}
    for row in rows:
        if row.get("loss_of_step") in (None, ""):
            continue
        value, name = float(str(row["loss_of_step"])), f"{row['point']} {row['loss']} {row['variant']}"
        expected = first.setdefault((row["point"], row["loss"]), value)
        if not abs(value - expected) <= SAME_LOSS * abs(expected):
            wrong.append(f"{name}: loss {value}, {expected} in the first variant measured")
    return wrong


def on_gpu(settings: ModelSettings, num_items: int) -> Encoder:
    """A new encoder, drawn on the GPU: faster for millions of items, and the values make no difference here."""
    with torch.device("cuda"):
        return build_encoder(settings, num_items)


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", help="names of step_points.py, separated by commas")
    parser.add_argument("--losses", help="such as cce,cce_neg/tile")
    parser.add_argument("--variants", help=", ".join(VARIANTS))
    parser.add_argument("--profile", type=Path, help="folder for tables of kernels")
    parser.add_argument("--seconds", type=float, default=250.0, help="start nothing new after so long")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    until = time.monotonic() + arguments.seconds
    where = environment()
    rows, others = read_rows(arguments.out, where)
    done = {(row["point"], row["loss"], row["variant"]) for row in rows}
    chosen = [case for case in select(arguments) if tuple(case) not in done]
    print(f"{where}\nceilings: {matmul_tflops():.0f} TFLOP/s, copy {copy_tb_s():.2f} TB/s", flush=True)
    if chosen:
        for name in ("beauty", "zvuk"):
            print(f"adding rows to the table's gradient, {name}, ms: {lookup_gradient_ms(POINTS[name])}", flush=True)
    for case in chosen:
        if time.monotonic() > until:
            print(f"out of time before {case.point} {case.loss} {case.variant}; the same call goes on from here")
            break
        rows.append(run(case) | where)
        write_rows(arguments.out, [*others, *rows])
        print("  ".join(f"{key} {rows[-1].get(key, '')}" for key in SHOWN if rows[-1].get(key)), flush=True)
    if arguments.profile is not None:
        profile(arguments.profile, until + 90, where)
    wrong = compare_losses(rows) + [str(row["note"]) for row in rows if str(row["note"]).startswith("failed")]
    write_table(arguments.out.with_suffix(".md"), rows)
    print("\n".join(misses(rows)))
    print("\n".join(wrong) if wrong else "losses agree between variants")
    sys.exit(bool(wrong))


def select(arguments: argparse.Namespace) -> list[Case]:
    """The cases asked for; named ones in all combinations, without names those of `cases`."""
    rows = cases()
    if arguments.points and arguments.losses and arguments.variants:
        parts = (value.split(",") for value in (arguments.points, arguments.losses, arguments.variants))
        points, losses, variants = parts
        return [Case(point, loss, variant) for point in points for loss in losses for variant in variants]
    for field in ("point", "loss", "variant"):
        asked = getattr(arguments, f"{field}s" if field != "loss" else "losses")
        if asked:
            rows = [case for case in rows if getattr(case, field) in asked.split(",")]
    return rows


def run(case: Case) -> dict[str, object]:
    """One row, whatever becomes of it."""
    try:
        return row_of(case, measure(case, None), "")
    except TrainingError as error:
        return row_of(case, None, str(error))
    except Exception as error:  # the other rows shall not wait for this one to be mended; main's exit code tells
        traceback.print_exc()
        return row_of(case, None, f"failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
    finally:
        forget()


def profile(folder: Path, until: float, where: dict[str, str]) -> None:
    """Tables of kernels of each twin."""
    for name in POINTS:
        for loss, variant in PROFILES:
            if time.monotonic() > until or name in ("large", "tiny"):
                continue
            profiler = Profiler(WARMUP)
            try:
                measure(Case(name, loss, variant), profiler)
                write_profile(folder, f"{name}-{loss}-{variant}", profiler.rows, where)
            except Exception:  # as in `run`
                traceback.print_exc()
            forget()


def forget() -> None:
    """Give memory and compiled code of the last row back."""
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
