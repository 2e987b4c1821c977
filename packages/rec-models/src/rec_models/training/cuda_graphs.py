"""Whole training steps as CUDA graphs: one launch from the host in the place of hundreds.

A step of a small batch takes the GPU less time than the host needs to launch its kernels. Recorded once, forward, loss,
backward and optimiser are replayed on new numbers in the same memory. Batches are filled up to a few sizes
(`rec_models.training.cuda_graphs`), and each size has its recording; they all share one pool of memory, because no
two run at once
and nothing in it outlives a step but the loss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rec_models.encoders.packing import Layout
from rec_models.training.batch import IGNORED, PackedBatch, StepBatch
from rec_models.training.step import StepLoss


# Batches filled up to a few sizes, so that a recorded step serves many of them.
def bucket_of(count: int) -> int:
    """The size that `count` is filled up to, and the same for every count between it and the size below.

    There are at least 16 sizes between a power of two and the next: at most a sixteenth is added (or 15, if that is
    more), half of that on average.
    """
    return -(-count // _step(count)) * _step(count)


def _step(count: int) -> int:
    """How far sizes lie apart where `count` is; a multiple of 16, as kernels like it."""
    return max(16, 1 << max(0, (count - 1).bit_length() - 5))


def prepare_filled(batch: PackedBatch, width: int) -> StepBatch:
    """What `prepare_packed` makes of a batch, and histories without a target behind the real ones.

    Loss and gradient stay the same. What is added repeats the batch's first items, and the added rows its first rows:
    thousands of places with one item would be summed one after another in the gradient of the lookup.

    Real places keep their numbers, and with them the negatives that they draw. How many histories are added depends on
    the size alone (some may be empty): shapes are a function of the numbers of histories, of places and of targets,
    each of the last two filled up.

    In NumPy: torch lets go of Python's lock at every operation, and a thread that prepares batches beside a training
    loop waits long for each of them.

    Args:
        batch: of T places; best on the host, because one on a device is waited for.
        width: the longest history that the network takes: the same for all batches.

    Returns:
        On the host.
    """
    inputs, offsets, targets = (part.cpu().numpy() for part in (batch.inputs, batch.offsets, batch.targets))
    real = len(targets)
    places, histories = bucket_of(real), -(-_step(real) // width)
    added = np.clip(places - real - width * np.arange(histories), 0, width)
    starts = np.concatenate((offsets, real + np.cumsum(added)))  # [B + 1]
    lengths = np.diff(starts)
    row = np.repeat(np.arange(len(lengths)), lengths)  # [places]
    packed, ends = np.arange(places), starts[1:] - 1
    layout = Layout(
        torch.from_numpy(packed + (np.arange(len(lengths)) * width - starts[:-1])[row]),
        torch.from_numpy(ends[row] - packed),
        torch.from_numpy(starts.astype(np.int32)),
        torch.from_numpy(ends),
        len(lengths),
        width,
    )
    rows, count = None, places
    has_target = targets != IGNORED
    if not has_target.all():
        chosen = np.flatnonzero(has_target)
        targets, count = targets[chosen], bucket_of(len(chosen))
        rows = torch.from_numpy(np.resize(chosen, count) if len(chosen) else np.zeros(count, np.int64))
    filled = np.full(count, IGNORED, np.int64)
    filled[: len(targets)] = targets
    masked = None
    if batch.masked is not None:
        masked = torch.zeros(places, dtype=torch.bool)
        masked[:real] = batch.masked
    items = torch.from_numpy(np.resize(inputs, places))  # repeats the first ones
    return StepBatch(items, layout, masked, rows, torch.from_numpy(filled), (len(targets),), 0, real)


_AHEAD = 2
"""Steps that the host may be ahead of the GPU: enough to keep it busy, and batches do not pile up in pinned memory."""


@dataclass
class _Recording:
    batch: StepBatch  # the memory that the recorded kernels read
    graph: torch.cuda.CUDAGraph | None = None
    mean: Tensor | None = None  # where they leave the loss

    def take(self, batch: StepBatch) -> None:
        """Bring the numbers of another batch of this size into that memory."""
        if batch.buffer is not None and self.batch.buffer is not None:
            self.batch.buffer.copy_(batch.buffer, non_blocking=True)
        else:
            torch._foreach_copy_(self.batch.tensors(), batch.tensors(), non_blocking=True)


class GraphedSteps:
    """Trains on batches, each size recorded when it comes for the second time.

    The first batch of a size is trained on kernel by kernel: that compiles what needs compiling, and makes the
    optimiser's states. Dropout and negatives are what they would be without a recording: torch hands a replay the
    generator's seed of the moment, and the negatives' step is read on the device.

    Args:
        loss: of an encoder on a GPU.
        optimizer: one that never waits for the device.
    """

    def __init__(self, loss: StepLoss, optimizer: torch.optim.Optimizer) -> None:
        self._loss = loss
        self._optimizer = optimizer
        self._device = loss.encoder.item_table.device
        self._step = torch.zeros((), dtype=torch.int64, device=self._device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[tuple[int, ...], _Recording] = {}
        self._ends: deque[torch.cuda.Event] = deque()

    def run(self, batch: StepBatch, step: int) -> Tensor:
        """One whole step, the optimiser's included.

        Args:
            batch: on the host, filled up to its size.
            step: of the optimiser, from 0.

        Returns:
            The mean loss, fp32 scalar on the device.
        """
        if len(self._ends) == _AHEAD:
            self._ends.popleft().synchronize()
        mean = self._run(batch, step)
        self._ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        self._ends[-1].record()
        return mean

    def _run(self, batch: StepBatch, step: int) -> Tensor:
        self._step.fill_(step)
        size = (batch.layout.rows, *(tensor.numel() for tensor in batch.tensors()))
        recording = self._recordings.get(size)
        if recording is None:
            recording = self._recordings[size] = _Recording(batch.to(self._device))
            return self._train_beside(recording.batch)
        recording.take(batch)
        if recording.graph is None or recording.mean is None:
            recording.graph, recording.mean = self._record(recording.batch)
        recording.graph.replay()
        return recording.mean.clone()

    def _train_beside(self, batch: StepBatch) -> Tensor:
        """Train on the stream that will record: torch ties gradients to the stream that first made them."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            mean = self._train(batch)
        current.wait_stream(self._stream)
        mean.record_stream(current)
        return mean

    def _record(self, batch: StepBatch) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that prepares batches may go on allocating page-locked memory meanwhile.
        recorder = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        with _capturable(self._optimizer), recorder:
            mean = self._train(batch)
        return graph, mean

    def _train(self, batch: StepBatch) -> Tensor:
        """The step itself; it leaves no gradient behind, so that the memory of all recordings is the same."""
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16):
            mean: Tensor = self._loss(batch, self._step)
        mean.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return mean.detach()


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tell torch's optimisers that they may be recorded; outside a recording they would warn about it."""
    before = [group.get("capturable", False) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(optimizer.param_groups, before, strict=True):
            group["capturable"] = value
