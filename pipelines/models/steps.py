"""Time and memory of training a point on a twin, from some steps of it and a validation."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import params
from pipelines.records import results

if TYPE_CHECKING:
    from rec_models.config import ModelSettings
    from rec_models.encoders import Encoder
    from rec_models.training.benchmark import StepTimes

VALIDATION_USERS = 4096
"""Users that validation is timed on; seconds of the whole validation are extrapolated from them."""


@dataclass(frozen=True)
class Effort:
    """How long to measure a point."""

    steps: int = 30
    """Timed steps at most."""
    different: int = 12
    """Batches that differ; warm-up and timed steps take them in turn, so that few sizes have to be recorded."""
    fewest: int = 10
    """Timed steps at least, whatever they take."""
    warmup: int = 10
    """Steps before them; more where steps are recorded and there are more sizes of batches than half of it."""
    seconds: float = 10.0
    """Of timed steps, after which no further one is begun."""


def measure(point: params.Params, effort: Effort, where: dict[str, Any]) -> results.Result:
    """Train a point for some steps.

    Args:
        point: of a twin.
        effort: how long.
        where: fields of the result, as `pipelines.records.device` has them.

    Returns:
        The result; its status says so if memory ran out or something failed.

    Raises:
        ValueError: the settings contradict each other.
    """
    fields = {**where, "precision": trained_precision(point), **_note(), **_tried(point, effort)}
    fields["measured_at"] = results.now()
    _forget(point, fields.get("status"))
    return results.Result.of(point, "training", **fields)


def _note() -> dict[str, str]:
    """What a reader of the peak should know; a point that runs out of memory has another note."""
    from rec_models.training.memory import GROWING_SEGMENTS, segments_can_grow

    held = held_gib()
    notes = [f"{held:.1f} GiB of points before were still held"] if held > 0.1 else []
    notes += [GROWING_SEGMENTS] if segments_can_grow() else []
    return {"note": "; ".join(notes)} if notes else {}


def not_tried(point: params.Params, where: dict[str, Any], reason: str) -> results.Result:
    """The result of a point that certainly does not fit."""
    fields = {**where, "precision": trained_precision(point), "measured_at": results.now()}
    return results.Result.of(point, "training", **fields, status="out of memory", note=f"not tried: {reason}")


def _tried(point: params.Params, effort: Effort) -> dict[str, Any]:
    """Fields of the result. When it returns nothing holds the exception, whose frames hold the tensors of the step."""
    from rec_models.errors import TrainingError

    try:
        return _train(point, effort)
    except TrainingError as error:
        status, note = _status(error.__cause__), str(error)
    except (RuntimeError, MemoryError) as error:
        status, note = _status(error), f"{type(error).__name__}: {str(error)[:300]}"
    return {"status": status, "note": note}


def _status(error: BaseException | None) -> results.Status:
    """What became of a point."""
    from rec_models.training.memory import is_out_of_memory

    return "out of memory" if is_out_of_memory(error) else "failed"


def _forget(point: params.Params, status: str | None) -> None:
    """Give back the memory of a point, and the code that torch.compile made for it."""
    import torch

    gc.collect()  # Fabric and its strategy refer to each other
    if point.train.compile:
        torch._dynamo.reset()
    if torch.cuda.is_available() and status != "failed":
        # cuBLAS keeps a workspace for every stream that it ever worked on, and each recorded point has its own stream.
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()


def held_gib() -> float:
    """What the allocator has given out on the GPU; 0 without one."""
    import torch

    return torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def _train(point: params.Params, effort: Effort) -> dict[str, Any]:
    """Time and memory of a point, as fields of a result."""
    import torch

    from pipelines.models import of_point
    from pipelines.models.rehearsal import RehearsedBatches, recorded_sizes, warm_up_order
    from pipelines.planner.twin_logs import twin_log
    from rec_models.training.benchmark import measure_steps

    log = twin_log(point)
    recorded = _is_recorded(point)
    different = min(effort.different, effort.steps)
    users = point.batch_size * point.train.devices * different
    store = log.train_store(users, point.max_seq_len + 1, point.seed)
    make = of_point.make_batches(point, store, log.num_items)
    warm_up_batches = [index % different for index in range(effort.warmup * point.train.accumulate)]
    if recorded:
        warm_up_batches = warm_up_order(recorded_sizes(make(0, 1)), effort.warmup)
    timed = [index % different for index in range(effort.steps * point.train.accumulate)]
    order = [*warm_up_batches, *timed]
    ranked = min(VALIDATION_USERS, log.validation_users)
    held_out = log.validation_store(ranked, point.max_seq_len, point.seed)
    warm_up = log.validation_store(min(ranked, point.evaluate.batch_users), point.max_seq_len, point.seed + 1)
    seconds: list[float] = []

    def validate(encoder: Encoder) -> dict[str, float]:
        device = encoder.item_table.device
        of_point.make_validation(point, warm_up)(encoder)
        started = _now(device)
        of_point.make_validation(point, held_out)(encoder)
        seconds.append(_now(device) - started)
        return {}

    times = measure_steps(
        model=of_point.model_settings(point),
        loss=of_point.loss_settings(point),
        training=of_point.training_settings(point),
        num_items=log.num_items,
        train_batches=lambda rank, world_size: RehearsedBatches(make(rank, world_size), order),
        item_counts=torch.from_numpy(log.item_counts),
        validate=validate,
        warmup=len(warm_up_batches) // point.train.accumulate,
        warmup_seconds=math.inf if recorded else effort.seconds / 4,
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
    """Times of steps as fields of `pipelines.records.schema.Result`."""
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


def _is_recorded(point: params.Params) -> bool:
    """Whether this machine records steps of the point."""
    import torch

    from pipelines.planner.sizes import records_steps

    return torch.cuda.is_available() and records_steps(point)


def _on_gpu(settings: ModelSettings, num_items: int) -> Encoder:
    """A new network whose weights are drawn on the GPU: seconds less for millions of items."""
    import torch

    from rec_models.encoders import build_encoder

    with torch.device("cuda"):
        return build_encoder(settings, num_items)


def _now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def trained_precision(point: params.Params) -> str:
    """The precision that this machine trains a point in."""
    import torch

    return point.train.precision if torch.cuda.is_available() else "32-true"
