"""Parts of a step by themselves, in the same process: ceilings of the card, the network alone, ways to add rows up."""

from __future__ import annotations

import statistics
import time

import torch
from step_points import Point, SyntheticBatches
from torch import Tensor

from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.training.batch import prepare


def matmul_tflops(size: int = 8192, seconds: float = 1.0) -> float:
    """Bf16 matrix product, square, TFLOP/s: the median of calls over some time, so that the clock settles."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        times.append(_milliseconds(lambda: left @ right))
    return 2 * size**3 / statistics.median(times) / 1e9


def copy_tb_s(mib: int = 2048) -> float:
    """Copy within the device's memory, read and write counted, TB/s."""
    source = torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [_milliseconds(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.nbytes / statistics.median(times) / 1e9


def network_ms(point: Point) -> float:
    """Forward and backward of the network without table and loss, batches on the device: the median."""
    settings = ModelSettings(hidden=point.hidden, max_seq_len=point.max_seq_len)
    encoder = build_encoder(settings, 2).cuda()  # the table is no part of it
    steps = [prepare(batch).map(Tensor.cuda) for batch in SyntheticBatches(point, 8).epoch(0)]
    times = []
    for number in range(40):
        step = steps[number % len(steps)]
        x = torch.randn(step.items.numel(), point.hidden, device="cuda", requires_grad=True)
        grad = torch.randn_like(x)

        def both(x: Tensor = x, grad: Tensor = grad, layout: object = step.layout) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                hidden = encoder.transform(x, layout)  # type: ignore[arg-type]
            hidden.backward(grad)

        times.append(_milliseconds(both))
    return statistics.median(times[10:])


def lookup_gradient_ms(point: Point) -> dict[str, float]:
    """Ways to add the gradient of looked-up rows to the table's; the last is what `lookup_into_grad` takes."""
    table = torch.zeros(point.items, point.hidden, device="cuda")
    items = [prepare(batch).items.cuda() for batch in SyntheticBatches(point, 8).epoch(0)]
    rows = torch.randn(max(part.numel() for part in items), point.hidden, device="cuda")
    ways = {
        "index_put_ (sorts, deterministic)": lambda ids: table.index_put_((ids,), rows[: len(ids)], accumulate=True),
        "index_add_ (atomics)": lambda ids: table.index_add_(0, ids, rows[: len(ids)]),
    }
    return {
        name: statistics.median([_milliseconds(lambda ids=ids, way=way: way(ids)) for ids in items * 3][8:])
        for name, way in ways.items()
    }


def _milliseconds(call: object) -> float:
    first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()  # type: ignore[operator]
    second.record()
    torch.cuda.synchronize()
    return first.elapsed_time(second)
