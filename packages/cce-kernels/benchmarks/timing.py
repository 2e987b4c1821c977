"""Times, ceilings and memory on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch


def need_gpu() -> None:
    """End the script in one line where there is nothing to measure on."""
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: found none that torch can use, allowed: a CUDA device (registers.py needs none)")


def durations_ms(
    call: Callable[[], object], *, repeats: int = 9, warmup_ms: float = 150.0, budget_ms: float = 1000
) -> list[float]:
    """Sorted durations of calls in milliseconds, by device events, in the state that the calls bring about.

    The card throttles on power and recovers within milliseconds: calls run back to back, without waiting for the host,
    and the first `warmup_ms` of them do not count. Slow calls are repeated less, at least 3 times.
    """

    def run(times: int) -> list[float]:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        events[-1].synchronize()
        return [start.elapsed_time(end) for start, end in pairwise(events)]

    run(1)
    once = run(1)[0]
    run(min(300, int(warmup_ms / once)) + 1)
    return sorted(run(max(3, min(repeats, int(budget_ms / once)))))


def median_ms(call: Callable[[], object], *, repeats: int = 9, budget_ms: float = 1000) -> float:
    """Median duration of a call in milliseconds; see `durations_ms`."""
    durations = durations_ms(call, repeats=repeats, budget_ms=budget_ms)
    return durations[len(durations) // 2]


def graph_ms(call: Callable[[], object]) -> float:
    """Median time of a call replayed from a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_ms(graph.replay)


def peak_extra_bytes(call: Callable[[], object]) -> int:
    """Bytes that a call holds at its worst beyond what was allocated before it; its results count too."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


def matmul_ceiling(dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    """TFLOP/s of a square matrix product of random numbers, measured now."""
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * size**3 / median_ms(lambda: torch.mm(left, right, out=out), repeats=25) / 1e9


@lru_cache
def copy_ceiling(num_bytes: int = 1 << 32) -> float:
    """GB/s of a device-to-device copy, bytes read plus bytes written."""
    source = torch.randint(0, 100, (num_bytes // 8,), device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / median_ms(lambda: target.copy_(source)) / 1e6
