"""Tile sizes of the sampled losses per vector dimension, and how much scratch they may take, as data.

To tune for another GPU, run `python packages/cce-kernels/benchmarks/tune_sampled.py` there and enter the winners here
(TUNING.md tells how these were found).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from cce_kernels import hardware


@dataclass(frozen=True)
class PerTokenTiles:
    """Gathered rows that one program holds at once, its warps, and the depth of its load pipeline."""

    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class SharedTiles:
    """Tile of tokens x tile of negatives of one program, such tiles it computes in turn (backward), warps, stages.

    `registers` is the most that a thread may have, None: as many as the compiler wants.
    """

    block_t: int
    block_n: int
    steps: int
    num_warps: int
    num_stages: int
    registers: int | None = None

    def programs(self, group_tokens: int) -> int:
        """Programs that share the tokens of one group."""
        return -(-group_tokens // self.block_t)


# Largest dimension -> tiles (forward, backward). D 256 on sm_90: measured on an H100 (TUNING.md). The other widths keep
# its shape and were chosen to stay within the registers.
PER_TOKEN = {
    64: (PerTokenTiles(32, 1, 1), PerTokenTiles(16, 1, 1)),
    128: (PerTokenTiles(16, 1, 1), PerTokenTiles(8, 1, 1)),
    256: (PerTokenTiles(8, 1, 1), PerTokenTiles(4, 1, 1)),
    512: (PerTokenTiles(4, 1, 1), PerTokenTiles(2, 1, 1)),
}
SHARED = {
    64: (SharedTiles(64, 64, 1, 4, 3), SharedTiles(64, 64, 8, 4, 2)),
    128: (SharedTiles(64, 32, 1, 4, 3), SharedTiles(64, 32, 8, 4, 2)),
    256: (SharedTiles(64, 32, 1, 4, 3), SharedTiles(64, 32, 8, 8, 2, 128)),
    512: (SharedTiles(32, 16, 1, 8, 1), SharedTiles(32, 16, 4, 8, 1)),
}
# Any GPU but sm_80 and sm_90, 16-bit operands: at most 64 KiB of shared memory.
SHARED_SAFE = {
    64: (SharedTiles(64, 64, 1, 4, 2), SharedTiles(64, 64, 8, 4, 1)),
    128: (SharedTiles(64, 32, 1, 4, 2), SharedTiles(64, 32, 8, 4, 1)),
    256: (SharedTiles(32, 32, 1, 4, 1), SharedTiles(32, 32, 8, 4, 1)),
    512: (SharedTiles(16, 16, 1, 4, 1), SharedTiles(16, 16, 8, 4, 1)),
}
# Three TF32 products a product: registers are what limits these. D 512 spills at any size. Shared memory: up to 80 KiB
# at D 256; at D 512 96 forward, 160 backward.
SHARED_FP32 = {
    64: (SharedTiles(32, 32, 1, 4, 1), SharedTiles(32, 32, 4, 4, 1)),
    128: (SharedTiles(32, 32, 1, 8, 1), SharedTiles(32, 16, 4, 4, 1)),
    256: (SharedTiles(16, 16, 1, 4, 1), SharedTiles(16, 16, 4, 4, 1)),
    512: (SharedTiles(16, 16, 1, 8, 1), SharedTiles(16, 16, 4, 8, 1)),
}
# The same where a block has 99 KiB (sm_86, sm_89, sm_120). At D 512 backward does one tile of negatives a program: no
# loop for which parts of h are kept, 32 KiB. Compiled, not run.
SHARED_FP32_SAFE = SHARED_FP32 | {512: (SharedTiles(16, 16, 1, 8, 1), SharedTiles(16, 16, 1, 8, 1))}
_LARGE_SHARED_MEMORY = (80, 90)
SORT_BYTES_PER_DRAW = 40  # key and place, before and after, and the sort's own buffers
SCRATCH_BYTES = 48 << 20
SORTED_BYTES, SORTED_DRAWS = 128 << 20, 2  # see `sorts_draws`: of an fp32 dW, and on average of an item
PIECE = 256  # draws of an item that one program adds up, with sharing `none`; a more popular item takes several


def per_token_tiles(dim: int) -> tuple[PerTokenTiles, PerTokenTiles]:
    """Tiles with negatives per token, forward and backward, for vectors of `dim` <= 512."""
    return next(tiles for limit, tiles in PER_TOKEN.items() if dim <= limit)


@lru_cache
def shared_tiles(
    device: torch.device, dtype: torch.dtype, dim: int, group_tokens: int
) -> tuple[SharedTiles, SharedTiles]:
    """Tiles with shared negatives, forward and backward, for vectors of `dim` <= 512."""
    large = hardware.is_interpreted(device) or hardware.device_properties(device.index or 0)[0] in _LARGE_SHARED_MEMORY
    narrow, wide = (SHARED, SHARED_FP32) if large else (SHARED_SAFE, SHARED_FP32_SAFE)
    table = wide if dtype == torch.float32 else narrow
    forward, backward = next(tiles for limit, tiles in table.items() if dim <= limit)
    needed = max(16, 1 << (group_tokens - 1).bit_length())
    return (
        replace(forward, block_t=min(forward.block_t, needed)),
        replace(backward, block_t=min(backward.block_t, needed)),
    )


def sort_chunk(num_items: int, dim: int) -> int:
    """Draws that are sorted at once: their buffers stay within 48 MiB and a tenth of an fp32 [V, D].

    What is left of them after the sort is less by more than the sums of pieces take. Where an item's draws begin and
    end, 8 bytes an item, comes on top, and so does what one token alone needs more.
    """
    return max(1, (SCRATCH_BYTES + num_items * dim * 4 // 10) // SORT_BYTES_PER_DRAW)


def sorts_draws(draws: int, num_items: int, dim: int) -> bool:
    """Whether the tile backward sorts the draws of each group: dW is larger than L2, its rows are drawn often.

    The ids before and after, with their places, stay within 48 MiB and a tenth of dW.
    """
    size = num_items * dim * 4
    return size > SORTED_BYTES and draws > SORTED_DRAWS * num_items and 16 * draws <= SCRATCH_BYTES + size // 10


def scratch_chunk(num_items: int, dim: int) -> int:
    """Rows of fp32 [D] that deterministic sums hold at once, within the same bytes."""
    return max(1, (SCRATCH_BYTES + num_items * dim * 4 // 10) // (dim * 4 + SORT_BYTES_PER_DRAW))
