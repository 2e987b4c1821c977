"""Times, ceilings and memory on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache

import torch


def median_ms(call: Callable[[], object], *, warmup: int = 2, repeats: int = 7, budget_ms: float = 1500.0) -> float:
    """Median duration of a call in milliseconds, by device events; fewer repeats (at least 3) for slow calls."""
    for _ in range(warmup):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
        if len(times) >= 3 and sum(times) > budget_ms:
            break
    return sorted(times)[len(times) // 2]


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
    return 2 * size**3 / median_ms(lambda: torch.mm(left, right, out=out), warmup=3, repeats=15) / 1e9


@lru_cache
def copy_ceiling(num_bytes: int = 1 << 32) -> float:
    """GB/s of a device-to-device copy, bytes read plus bytes written."""
    source = torch.randint(0, 100, (num_bytes // 8,), device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / median_ms(lambda: target.copy_(source)) / 1e6
