"""Tile sizes of the full loss per architecture, dtype and vector dimension, as data.

No autotuning at run time: a first step must not take a minute, and two runs must agree. To tune for another GPU, run
`python packages/cce-kernels/benchmarks/tune_full.py` there and enter the winners here (TUNING.md tells how these were
found).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.compiler import is_compiling

from cce_kernels import hardware
from cce_kernels.full.call import FullCall


@dataclass(frozen=True)
class FullTiles:
    """Tile of tokens x tile of items of one program, its warps, and the depth of its load pipeline."""

    block_m: int
    block_v: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None  # cap of registers a thread, so that more programs share a multiprocessor
    tma: bool = False  # stream tiles by tensor descriptor (Hopper's copy engine) where the matrix allows it

    def options(self) -> dict[str, int]:
        """Launch options for Triton; multiply-add fusion is explicit because 3.10 switches it off by default."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return options if self.max_registers is None else {**options, "maxnreg": self.max_registers}


@dataclass(frozen=True)
class ChunkTiles:
    """Tile of tokens x tile of items x columns at a time of the product that writes numerators (numerators.py)."""

    block_m: int
    block_v: int
    block_d: int
    num_warps: int
    num_stages: int
    programs: int  # that share a multiprocessor
    tma: bool = False


# Largest dimension -> tiles (forward, backward), 16-bit operands. sm_90: measured on an H100 (TUNING.md).
_FULL_SM90 = {
    64: (FullTiles(64, 64, 4, 5, 128, tma=True), FullTiles(128, 64, 4, 3, 168, tma=True)),
    128: (FullTiles(64, 64, 4, 5, tma=True), FullTiles(64, 64, 4, 3, 168, tma=True)),
    256: (FullTiles(128, 64, 8, 3, tma=True), FullTiles(64, 128, 8, 3, tma=True)),
    320: (FullTiles(64, 32, 4, 3, tma=True), FullTiles(32, 128, 8, 4, tma=True)),
    512: (FullTiles(64, 64, 8, 2, tma=True), FullTiles(64, 64, 8, 2, tma=True)),
}
# Not measured: the sizes that flash attention uses there, for 160 KiB of shared memory.
_FULL_SM80 = {
    64: (FullTiles(128, 64, 4, 3), FullTiles(64, 128, 4, 3)),
    128: (FullTiles(64, 64, 4, 3), FullTiles(64, 64, 4, 3)),
    256: (FullTiles(64, 32, 8, 3), FullTiles(32, 64, 8, 3)),
    512: (FullTiles(32, 32, 8, 2), FullTiles(32, 32, 8, 2)),
}
# Any other GPU: at most 64 KiB of shared memory, of the 99 that a block has on sm_86, sm_89 and sm_120. Not measured.
_FULL_SAFE = {
    64: (FullTiles(64, 64, 4, 2), FullTiles(64, 64, 4, 2)),
    128: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),
    256: (FullTiles(32, 32, 4, 2), FullTiles(32, 32, 4, 2)),
    512: (FullTiles(16, 16, 4, 2), FullTiles(16, 16, 4, 2)),
}
# fp32: three bf16 parts a number, 6 bytes of shared memory for 2 in 16 bits. At most 96 KiB; not measured.
_FULL_FP32 = {
    64: (FullTiles(64, 32, 4, 2), FullTiles(32, 64, 4, 2)),
    128: (FullTiles(32, 32, 4, 2), FullTiles(32, 32, 4, 2)),
    256: (FullTiles(16, 16, 4, 2), FullTiles(16, 16, 4, 2)),
}
# Measured on an H200 (TUNING.md).
_FULL_FP32_SM90 = {
    64: (FullTiles(64, 128, 4, 1), FullTiles(128, 64, 4, 1)),
    128: (FullTiles(128, 64, 8, 1), FullTiles(64, 128, 8, 1)),
    256: (FullTiles(64, 64, 4, 1), FullTiles(64, 64, 4, 1)),
}
_FULL_INTERPRETER = FullTiles(16, 16, 4, 1)
_CHUNK_SM90 = ChunkTiles(128, 128, 64, 4, 3, 2, tma=True)  # measured on an H200 (TUNING.md)
_CHUNK_SAFE = ChunkTiles(64, 64, 32, 4, 2, 2)  # 16 KiB of shared memory; not measured
_CHUNK_INTERPRETER = ChunkTiles(16, 16, 16, 4, 1, 1)
MAX_PARTIAL_BYTES = 96 << 20
MAX_SPLITS = 16
SMALL_SCORES = 1 << 24
CHUNK_TOKENS = 1024  # the fewest of a chunk
CHUNKED_ITEMS = 65_536  # the fewest that go by chunks of tokens whatever their number
CHUNKED_FEW_ITEMS, CHUNKED_SCORES = 15_000, 1 << 28  # and the fewest that do with so many pairs of a token and an item
CHUNK_BYTES = 512 << 20  # of the numerators of a chunk, unless CHUNK_TOKENS want more


def widest(dtype: torch.dtype) -> int:
    """Columns of the widest hidden vectors of a dtype that the kernels of the full loss take."""
    return 256 if dtype == torch.float32 else hardware.MAX_TRITON_DIM


def is_small(call: FullCall) -> bool:
    """Whether scores that exist are faster than a fused pass: measured on an H200, by CUDA graph and from Python."""
    return _is_plain(call) and 0 < call.hidden.shape[0] * call.weight.shape[0] <= SMALL_SCORES


def is_chunked(call: FullCall) -> bool:
    """Whether a mean or sum whose gradients are wanted goes by chunks of tokens."""
    wanted = torch.is_grad_enabled() and call.weight.requires_grad and not call.with_predicted
    return wanted and chunks_pay(call.hidden.shape[0], *call.weight.shape) and _is_plain(call)


def chunks_pay(num_tokens: float, num_items: int, dim: int) -> bool:
    """Whether chunks of tokens are faster than a fused pass: measured on an H200 (TUNING.md).

    Above D 320 the sums of the fused kernels fill the registers. Narrower vectors need no chunks, nor their memory; few
    items leave the plain products little to do, and few tokens the reading and writing of dW much. Rows that begin at
    no multiple of 16 bytes, and fewer items, were not measured.
    """
    many = num_items >= CHUNKED_FEW_ITEMS and num_tokens * num_items >= CHUNKED_SCORES
    wide = dim > 320 and dim % 8 == 0
    return wide and num_tokens >= 2 * CHUNK_TOKENS and (num_items >= CHUNKED_ITEMS or many)


def _is_plain(call: FullCall) -> bool:
    """Whether plain products may do: not in fp16, which has no exponents to spare, or in a compiled graph."""
    plain = call.bias is None and call.softcap is None and call.filter_eps is None
    return plain and call.hidden.dtype == torch.bfloat16 and not is_compiling()


def chunk_tokens(num_items: int) -> int:
    """Tokens of a chunk, a multiple of 128: their numerators take 512 MiB, or 2 KiB per item where that is more.

    Every chunk reads and writes dW in fp32, so that small ones are slow: 42 ms with 512 tokens, 28 with 1,024, 26 with
    2,048 and 25 with 4,096 (M 32,768, V 131,072, D 512, an H200).
    """
    return max(CHUNK_TOKENS, CHUNK_BYTES // (2 * num_items) // 128 * 128)


def chunk_tiles(device: torch.device) -> tuple[ChunkTiles, int]:
    """Tiles of the product that writes numerators, and how many programs share the device."""
    if hardware.is_interpreted(device):
        return _CHUNK_INTERPRETER, 3
    architecture, multiprocessors = hardware.device_properties(device.index or 0)
    tiles = _CHUNK_SM90 if architecture == 90 else _CHUNK_SAFE
    return tiles, multiprocessors * tiles.programs


def full_tiles(device: torch.device, dtype: torch.dtype, dim: int) -> tuple[FullTiles, FullTiles]:
    """Tiles of the forward and of the backward for hidden vectors of a dtype and dimension.

    Raises:
        ValueError: `dim` is above `widest(dtype)`.
    """
    if dim > widest(dtype):
        raise ValueError(f"hidden has {dim} columns of {dtype}; impl='triton' takes up to {widest(dtype)}")
    if hardware.is_interpreted(device):
        return _FULL_INTERPRETER, _FULL_INTERPRETER
    architecture, _ = hardware.device_properties(device.index or 0)
    if dtype == torch.float32:
        table = _FULL_FP32_SM90 if architecture == 90 else _FULL_FP32
    else:
        table = {90: _FULL_SM90, 80: _FULL_SM80}.get(architecture, _FULL_SAFE)
    return next(tiles for limit, tiles in table.items() if dim <= limit)


@lru_cache(maxsize=1024)
def full_splits(device: torch.device, programs: int, streamed: int, num_warps: int, partial_bytes: int) -> int:
    """Number of splits of the streamed side, 1 to 16, that leaves the least of the chip idle.

    `programs` and `streamed` count the tiles of the side that is held and of the one that is streamed. A multiprocessor
    holds 8 warps that use all registers. Merging costs time, so ties go to few splits; the fp32 sums of all splits,
    `partial_bytes` each, stay within 96 MiB.
    """
    if hardware.is_interpreted(device):
        return 1
    slots = hardware.device_properties(device.index or 0)[1] * max(1, 8 // num_warps)
    best, best_cost = 1, float("inf")
    for splits in range(1, max(1, min(MAX_SPLITS, streamed // 8, MAX_PARTIAL_BYTES // partial_bytes)) + 1):
        waves = -(-programs * splits // slots)
        cost = waves * slots / (programs * splits) * (1 + 0.02 * splits)
        if cost < best_cost - 1e-9:
            best, best_cost = splits, cost
    return best
