"""What a step must take: a counted floor, ceilings of the card, and ways to add rows up, in the same process."""

from __future__ import annotations

import math
import statistics
import time

import torch
from step_points import Point, SyntheticBatches

from cce_kernels.sampled.kernels.state import copy_pays
from rec_models.training.batch import prepare

COPY_TB_S, MATMUL_TFLOPS = 4.3, 688.0  # of an H200, sustained: what its floor is counted with


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


def floor_ms(point: Point, loss: str, tokens: float) -> float:
    """The least that a recorded step of two blocks with dense Adam can take on an H200, counted: bytes, and FLOPs.

    Adam reads and writes a table, its moments and its gradient, which was zeroed before: 32 bytes per element. The
    network moves 46 KB per token at D 256. A sampled loss with tiles of 64 tokens gathers its rows twice, in 16 bits
    where a copy of the table pays, and reads and writes each row of the gradient that it touches once; an exact loss
    multiplies 8 M V D numbers. `loss` is ``cce`` or ``cce_neg/tile``; the others have no floor, NaN.
    """
    size = point.items * point.hidden
    moved = 32 * size + 46e3 * point.hidden / 256 * tokens
    if loss == "cce":
        return moved / COPY_TB_S / 1e9 + 8 * tokens * size / MATMUL_TFLOPS / 1e9
    if loss != "cce_neg/tile":
        return math.nan
    drawn = math.ceil(tokens / 64) * point.negatives
    table, products = (torch.empty(point.items, 0, dtype=x, device="meta") for x in (torch.float32, torch.bfloat16))
    width = 2 if copy_pays(table, products, 2 * drawn) else 4
    touched = point.items * -math.expm1(-drawn / point.items)
    return (moved + (2 * drawn * width + touched * 8) * point.hidden) / COPY_TB_S / 1e9


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
