"""Time and memory of training a point on a synthetic log, measured on some steps and a validation."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from cutrec.config import loss_settings, model_settings, training_settings
from cutrec.config_point import Config
from cutrec.reporting import results_file as results
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.plan import setup_of
from cutrec.workflow.synthetic_split import synthetic_split
from pipelines.paper import warm_up
from rec_models.config import ModelSettings
from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import TrainingError
from rec_models.training import memory
from rec_models.training.benchmark import StepTimes, measure_steps
from rec_models.training.result import BatchDone

GIB = 2**30
VALIDATION_USERS = 4096
"""Users of the timed validation; its seconds are extrapolated to all users."""


@dataclass(frozen=True)
class Effort:
    """How many steps of a point to measure."""

    steps: int = 30
    """Timed steps at most."""
    different: int = 12
    """Distinct batches; warm-up and timed steps repeat them, so that few sizes have to be recorded."""
    fewest: int = 10
    """Timed steps at least, however long they take."""
    warmup: int = 10
    """Steps before the timed ones; more if recording all sizes of batches takes more."""
    seconds: float = 10.0
    """Time after which no further timed step starts."""


def measure(point: Config, effort: Effort, where: dict[str, Any]) -> results.Result:
    """Train a point for some steps.

    Args:
        point: of a synthetic log.
        effort: how many steps.
        where: fields of the result that `cutrec.environment` returns.

    Returns:
        The result; its status tells whether memory ran out or the training failed.

    Raises:
        ValueError: the settings contradict each other.
    """
    fields = _note() | _tried(point, effort)
    _forget(point, fields.get("status"))
    return result_of(point, where, **fields)


def profile(point: Config, effort: Effort, path: Path) -> str:
    """Train a point for some steps and write a trace of them, for chrome://tracing or Perfetto.

    Args:
        point: of a synthetic log.
        effort: how many steps are traced, after the warm-up.
        path: of the trace; it is compressed if its name ends with ``.gz``.

    Returns:
        A table of the operations that take longest.

    Raises:
        TrainingError: memory ran out, or the training failed.
        ValueError: the settings contradict each other.
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    tables: list[str] = []

    def write(profiler: Any) -> None:
        profiler.export_chrome_trace(str(path))
        tables.append(profiler.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=40))

    with ExitStack() as running:

        def watch(warm_up: int) -> Callable[[BatchDone], object]:
            traced = effort.steps * point.train.accumulate
            profiler = torch.profiler.profile(
                activities=activities,
                schedule=torch.profiler.schedule(wait=warm_up - 1, warmup=1, active=traced, repeat=1),
                on_trace_ready=write,
                record_shapes=True,
                profile_memory=True,
                acc_events=True,
            )
            running.enter_context(profiler)
            return lambda done: profiler.step()

        _train(point, replace(effort, seconds=math.inf), watch)
    return tables[0]


def result_of(point: Config, where: dict[str, Any], **fields: Any) -> results.Result:
    """A result of now, in the precision in which this machine trains the point; arguments as of `measure`."""
    precision = point.train.precision if torch.cuda.is_available() else "32-true"
    fields = where | {"precision": precision, "measured_at": results.now()} | fields
    return results.Result.of(point, "training", **fields)


def _note() -> dict[str, str]:
    """What a reader of the peak has to know; a point that runs out of memory gets another note."""
    held = held_gib()
    notes = [f"{held:.1f} GiB of points before were still held"] if held > 0.1 else []
    notes += [memory.GROWING_SEGMENTS] if memory.segments_can_grow() else []
    return {"note": "; ".join(notes)} if notes else {}


def _tried(point: Config, effort: Effort) -> dict[str, Any]:
    """Fields of the result. Returning drops the exception, whose frames keep the tensors of the step alive."""
    try:
        return _train(point, effort)
    except TrainingError as error:
        short, note = memory.is_out_of_memory(error.__cause__), str(error)
    except (RuntimeError, MemoryError) as error:
        short, note = memory.is_out_of_memory(error), f"{type(error).__name__}: {str(error)[:300]}"
    return {"status": "out of memory" if short else "failed", "note": note}


def _forget(point: Config, status: str | None) -> None:
    """Free the memory of a point and the code that torch.compile made for it."""
    gc.collect()  # Fabric and its strategy refer to each other
    if point.train.compile:
        torch._dynamo.reset()
    if torch.cuda.is_available() and status != "failed":
        # cuBLAS keeps a workspace per stream, and each recorded point has its own stream.
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()


def held_gib() -> float:
    """GiB that torch has allocated on the GPU; 0 without one."""
    return torch.cuda.memory_allocated() / GIB if torch.cuda.is_available() else 0.0


def _train(
    point: Config, effort: Effort, watch: Callable[[int], Callable[[BatchDone], object]] | None = None
) -> dict[str, Any]:
    """Time and memory of a point, as fields of a result.

    `watch` makes what is called after each batch, from the number of batches of the warm-up.
    """
    log = synthetic_split(point)
    recorded = _is_recorded(point)
    different = min(effort.different, effort.steps)
    users = point.batch_size * point.train.devices * different
    store = log.train_store(users, point.max_seq_len + 1, point.seed)
    make = inputs.make_batches(point, store, log.num_items)
    warm_up_batches = [index % different for index in range(effort.warmup * point.train.accumulate)]
    if recorded:
        warm_up_batches = warm_up.warm_up_order(warm_up.recorded_sizes(make(0, 1)), effort.warmup)
    order = warm_up_batches + [index % different for index in range(effort.steps * point.train.accumulate)]
    ranked = min(VALIDATION_USERS, log.validation_users)
    held_out = log.validation_store(ranked, point.max_seq_len, point.seed)
    first = log.validation_store(min(ranked, point.evaluate.batch_users), point.max_seq_len, point.seed + 1)
    seconds: list[float] = []

    def validate(encoder: Encoder) -> dict[str, float]:
        device = encoder.item_table.device
        inputs.make_validation(point, first)(encoder)
        started = _now(device)
        inputs.make_validation(point, held_out)(encoder)
        seconds.append(_now(device) - started)
        return {}

    times = measure_steps(
        model=model_settings(point),
        loss=loss_settings(point),
        training=training_settings(point),
        num_items=log.num_items,
        train_batches=lambda rank, world_size: warm_up.WarmUpBatches(make(rank, world_size), order),
        item_counts=torch.from_numpy(log.item_counts),
        validate=validate,
        warmup=len(warm_up_batches) // point.train.accumulate,
        warmup_seconds=math.inf if recorded else effort.seconds / 4,
        steps=effort.steps,
        min_steps=effort.fewest,
        max_seconds=effort.seconds,
        on_batch=None if watch is None else watch(len(warm_up_batches)),
        build=_on_gpu if torch.cuda.is_available() else None,
    )
    steps = math.ceil(log.train_users / (point.batch_size * point.train.accumulate * point.train.devices))
    loop = steps * times.mean_ms / 1e3
    validation = seconds[0] * log.validation_users / ranked
    return {
        **step_fields(times),
        "replayed_steps": times.steps if recorded else 0,
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
    """Step times as fields of `cutrec.reporting.result.Result`."""
    return {
        "steps_timed": times.steps,
        "warmup_steps": times.warmup,
        "tokens_per_step": round(times.tokens, 1),
        "most_tokens": times.most_tokens,
        "step_ms": round(times.step_ms, 4),
        "step_ms_p10": round(times.p10_ms, 4),
        "step_ms_p90": round(times.p90_ms, 4),
        "mean_step_ms": round(times.mean_ms, 4),
        "wait_share": round(times.wait_share, 4),
        "peak_loop_gib": round(times.loop_peak_gib, 4),
    }


def _is_recorded(point: Config) -> bool:
    """Whether this machine records steps of the point."""
    return torch.cuda.is_available() and setup_of(point).recorded


def _on_gpu(settings: ModelSettings, num_items: int) -> Encoder:
    """A new network with weights drawn on the GPU, which saves seconds for millions of items."""
    with torch.device("cuda"):
        return build_encoder(settings, num_items)


def _now(device: Any) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
