"""Whole training steps as CUDA graphs: one launch from the host instead of hundreds.

For a small batch the GPU finishes a step faster than the host launches its kernels. Here forward, loss, backward and
optimizer are recorded once as a graph and replayed on new numbers in the same memory. A graph has fixed shapes, so
batches are filled up to one of a few sizes, and each size has its own graph. All graphs share one memory pool, because
no two run at once and nothing in the pool but the loss outlives a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rec_models.encoders.packing import MOST_ORDERED, TILE, Layout, heavy_first
from rec_models.training.batch import IGNORED, Batch, StepBatch
from rec_models.training.ranks import Ranks
from rec_models.training.step import StepLoss

_AHEAD = 2  # steps of the host before the GPU: enough to keep it busy, and few pinned buffers are in use


def bucket_of(count: int) -> int:
    """The size that `count` is filled up to: the next of a few fixed sizes.

    There are at least 16 sizes between a power of two and the next, so filling adds at most a sixteenth (or 15, if that
    is more), and half of that on average.
    """
    return -(-count // _step(count)) * _step(count)


def _step(count: int) -> int:
    """The distance between sizes around `count`: a multiple of 16, which suits the kernels."""
    return max(16, 1 << max(0, (count - 1).bit_length() - 5))


class FilledSize(NamedTuple):
    """What a batch is filled up to, by its number of histories and by what `bucket_of` makes of the others."""

    places: int  # T
    targets: int  # M
    histories: int  # with those that are appended
    full: bool  # every place has a target

    @classmethod
    def of(cls, batch: Batch, width: int) -> FilledSize:
        """The size that a batch alone needs; `width` is the longest history."""
        places = len(batch.targets)
        targets = int((batch.targets.cpu().numpy() != IGNORED).sum())
        histories = len(batch.offsets) - 1 - (-_step(places) // width)
        return cls(places, targets, histories, targets == places)

    @classmethod
    def of_ranks(cls, sizes: Sequence[Sequence[int]], width: int) -> FilledSize:
        """The size that the batches of all ranks fit into, from the `of` of each: all record the same graphs."""
        places, targets, histories, full = zip(*sizes, strict=True)
        needed = -(-(bucket_of(max(places)) - min(places)) // width)  # histories that the smallest batch is filled by
        more = needed - -(-_step(max(places)) // width)
        more = 1 << (more - 1).bit_length() if more > 0 else 0  # a power of two: few sizes, and so few graphs
        return cls(max(places), max(targets), max(histories) + more, all(full))


def prepare_filled(batch: Batch, width: int, size: FilledSize | None = None) -> StepBatch:
    """`rec_models.training.batch.prepare`, with histories without targets appended to reach a fixed size.

    Loss and gradient stay the same. The added places repeat the first items of the batch, and the added rows its first
    rows: thousands of places with the same item would be added up one after another in the gradient of the lookup.

    Real places keep their indices, and so the negatives that they draw. The number of added histories depends on the
    size alone (some may be empty). So all shapes are a function of the number of histories and of the filled-up numbers
    of places and of targets.

    It is written in NumPy: torch releases Python's lock at every operation, and a thread that prepares batches beside a
    training loop would wait for it each time. The result is on the host; so should the batch be, because one on a
    device is waited for and copied. `width` is the longest history that the network takes: the same for all batches.
    `size` is what several ranks agreed on; None: that of the batch.
    """
    items, offsets, targets = (part.cpu().numpy() for part in (batch.items, batch.offsets, batch.targets))
    real = len(targets)
    size = size or FilledSize.of(batch, width)
    places, histories = bucket_of(size.places), size.histories - (len(offsets) - 1)
    added = np.clip(places - real - width * np.arange(histories), 0, width)
    starts = np.concatenate((offsets, real + np.cumsum(added)))  # [B + 1]
    lengths = np.diff(starts)
    row = np.repeat(np.arange(len(lengths)), lengths)  # [places]
    packed, ends = np.arange(places), starts[1:] - 1
    where, from_end = packed + (np.arange(len(lengths)) * width - starts[:-1])[row], ends[row] - packed
    layout = Layout(
        torch.from_numpy(where),
        torch.from_numpy(from_end),
        torch.from_numpy(starts.astype(np.int32)),
        torch.from_numpy(ends),
        len(lengths),
        width,
        tiles=torch.from_numpy(heavy_first(where, from_end, width)) if places <= MOST_ORDERED * TILE else None,
    )
    rows, count = None, places
    if not size.full:
        chosen = np.flatnonzero(targets != IGNORED)
        targets, count = targets[chosen], bucket_of(size.targets)
        rows = torch.from_numpy(np.resize(chosen, count) if len(chosen) else np.zeros(count, np.int64))
    filled = np.full(count, IGNORED, np.int64)
    filled[: len(targets)] = targets
    masked = None
    if batch.masked is not None:
        masked = torch.zeros(places, dtype=torch.bool)
        masked[:real] = batch.masked
    filled_items = torch.from_numpy(np.resize(items, places))  # repeats the first ones
    return StepBatch(filled_items, layout, masked, rows, torch.from_numpy(filled), (len(targets),), 0, real)


def size_of(batch: StepBatch) -> tuple[int, ...]:
    """What the graph of a batch depends on: its number of histories, and the sizes of its tensors."""
    return batch.layout.rows, *(tensor.numel() for tensor in batch.tensors())


@dataclass
class _Graph:
    batch: StepBatch  # the memory that the recorded kernels read
    graph: torch.cuda.CUDAGraph | None = None
    mean: Tensor | None = None  # where they write the loss

    def copy_in(self, batch: StepBatch, beside: torch.cuda.Stream) -> None:
        """Copy another batch of this size into that memory; it leaves the host on a stream of its own.

        The host is ahead, so that copy runs beside the step before, and what this step waits for stays on the GPU.
        """
        if batch.buffer is not None and self.batch.buffer is not None:
            current = torch.cuda.current_stream(self.batch.buffer.device)
            with torch.cuda.stream(beside):
                arrived = batch.buffer.to(self.batch.buffer.device, non_blocking=True)
            current.wait_stream(beside)
            arrived.record_stream(current)
            self.batch.buffer.copy_(arrived, non_blocking=True)
        else:
            torch._foreach_copy_(self.batch.tensors(), batch.tensors(), non_blocking=True)


class GraphedSteps:
    """Trains on batches, and records a graph for each size when it comes for the second time.

    The first batch of a size is launched kernel by kernel: that compiles what needs compiling, and allocates the
    optimizer's state. Dropout and negatives are the same as without a graph: torch gives a replay the generator's
    current seed, and the step number that negatives depend on is read on the device. The encoder is on a GPU, and the
    optimizer never waits for it.

    With several ranks a graph holds the collective operations too. All ranks see batches of the same size at the same
    step, so they record and replay the same graphs in the same order, as NCCL demands.
    """

    def __init__(self, step_loss: StepLoss, optimizer: torch.optim.Optimizer, ranks: Ranks | None = None) -> None:
        self._step_loss = step_loss
        self._optimizer = optimizer
        self._ranks = ranks
        self._device = step_loss.encoder.item_table.device
        self._step = torch.zeros((), dtype=torch.int64, device=self._device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._ends: deque[torch.cuda.Event] = deque()

    def run(self, batch: StepBatch, step: int) -> Tensor:
        """One whole step, from 0, with the optimizer's, on a host's batch of `prepare_filled`.

        Returns the mean loss, an fp32 scalar on the device.
        """
        if len(self._ends) == _AHEAD:
            self._ends.popleft().synchronize()
        self._step.fill_(step)
        size = size_of(batch)
        known = self._graphs.get(size)
        if known is None:
            known = self._graphs[size] = _Graph(batch.to(self._device))
            mean = self._launch(known.batch)
        else:
            known.copy_in(batch, self._beside)
            if known.graph is None or known.mean is None:
                known.graph, known.mean = self._record(known.batch)
            known.graph.replay()
            mean = known.mean.clone()
        self._ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        self._ends[-1].record()
        return mean

    def _launch(self, batch: StepBatch) -> Tensor:
        """Train on the stream that will record: torch ties gradients to the stream that first computed them."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            mean = self._train(batch)
        current.wait_stream(self._stream)
        mean.record_stream(current)
        return mean

    def _record(self, batch: StepBatch) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that prepares batches may allocate page-locked memory meanwhile.
        recorder = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        groups = self._optimizer.param_groups
        before = [group.get("capturable", False) for group in groups]
        try:
            for group in groups:  # outside a recording the flag would make torch's optimizers warn
                group["capturable"] = True
            with recorder:
                mean = self._train(batch)
        finally:
            for group, value in zip(groups, before, strict=True):
                group["capturable"] = value
        return graph, mean

    def _train(self, batch: StepBatch) -> Tensor:
        """The step itself; it leaves no gradient behind, so that all graphs use the same memory."""
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16):
            mean: Tensor = self._step_loss(batch, self._step, 0 if batch.first_row is None else batch.first_row)
        (mean if batch.share is None else mean * batch.share).backward()  # type: ignore[no-untyped-call]
        if self._ranks is not None:
            self._ranks.sum_gradients(self._step_loss.encoder)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return mean.detach()
