"""Tile sizes per architecture, dtype and vector dimension, as data.

No autotuning at run time: a first step must not take a minute, and two runs must agree. To tune for another GPU, run
`python packages/cce-kernels/benchmarks/tune_full.py` there and enter the winners here (TUNING.md tells how these were
found).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch


@lru_cache
def device_properties(index: int) -> tuple[int, int]:
    """Compute capability (major * 10 + minor) and number of multiprocessors of a CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return properties.major * 10 + properties.minor, properties.multi_processor_count


# Full loss


@dataclass(frozen=True)
class FullTiles:
    """Tile of tokens x tile of items of one program, its warps, and the depth of its load pipeline."""

    block_m: int
    block_v: int
    num_warps: int
    num_stages: int


# Largest padded dimension -> tiles (forward, backward), 16-bit operands.
_FULL_SM90 = {
    64: (FullTiles(128, 128, 8, 3), FullTiles(128, 64, 8, 3)),
    128: (FullTiles(64, 128, 4, 3), FullTiles(128, 64, 4, 3)),
    256: (FullTiles(128, 32, 8, 3), FullTiles(32, 64, 4, 3)),
    320: (FullTiles(64, 32, 4, 3), FullTiles(32, 64, 4, 3)),
    512: (FullTiles(64, 32, 8, 2), FullTiles(32, 64, 8, 2)),
}
_FULL_SAFE = {
    64: (FullTiles(64, 64, 4, 3), FullTiles(64, 64, 4, 3)),
    128: (FullTiles(64, 64, 4, 2), FullTiles(64, 64, 4, 2)),
    256: (FullTiles(64, 32, 8, 2), FullTiles(32, 64, 8, 2)),
    512: (FullTiles(32, 16, 4, 2), FullTiles(16, 32, 4, 2)),
}
# fp32 operands are twice as wide, and their products slower: smaller tiles on every architecture.
_FULL_FP32 = {
    64: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),
    128: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),
    256: (FullTiles(32, 16, 4, 2), FullTiles(16, 32, 4, 2)),
    512: (FullTiles(16, 16, 4, 1), FullTiles(16, 16, 4, 1)),
}
_FULL_INTERPRETER = FullTiles(16, 16, 4, 1)
_MAX_DIM = 512


def full_tiles(device: torch.device, dtype: torch.dtype, dim: int) -> tuple[FullTiles, FullTiles]:
    """Look up the tiles of the full loss.

    Args:
        device: where it runs; the CPU means Triton's interpreter.
        dtype: of the hidden vectors.
        dim: of the hidden vectors.

    Returns:
        Tiles of the forward and of the backward.

    Raises:
        ValueError: `dim` is above 512.
    """
    if dim > _MAX_DIM:
        raise ValueError(f"hidden has {dim} columns; impl='triton' takes up to {_MAX_DIM}")
    if device.type != "cuda":
        return _FULL_INTERPRETER, _FULL_INTERPRETER
    if dtype == torch.float32:
        table = _FULL_FP32
    else:
        table = _FULL_SM90 if device_properties(device.index or 0)[0] == 90 else _FULL_SAFE
    return next(tiles for limit, tiles in sorted(table.items()) if dim <= limit)


def full_splits(device: torch.device, programs: int, streamed: int, programs_per_sm: int = 1) -> int:
    """Into how many parts to split the streamed side so that the programs fill the chip.

    Args:
        device: where it runs.
        programs: tiles of the side that is held.
        streamed: tiles of the side that is streamed.
        programs_per_sm: programs that a multiprocessor runs at once.

    Returns:
        The number of parts, 1 to 16, that leaves the least of the chip idle; merging costs, so few parts win ties.
    """
    if device.type != "cuda":
        return 1
    slots = device_properties(device.index or 0)[1] * programs_per_sm
    best, best_cost = 1, float("inf")
    for splits in range(1, max(1, min(16, streamed // 8)) + 1):
        waves = -(-programs * splits // slots)
        cost = waves * slots / (programs * splits) * (1 + 0.01 * splits)
        if cost < best_cost - 1e-9:
            best, best_cost = splits, cost
    return best
