"""Whole training steps as CUDA graphs: one launch from the host in the place of hundreds.

A step of a small batch takes the GPU less time than the host needs to launch its kernels. Recorded once, forward, loss,
backward and optimiser are replayed on new numbers in the same memory. Batches are filled up to a few sizes
(`rec_models.buckets`), and each size has its recording; they all share one pool of memory, because no two run at once
and nothing in it outlives a step but the loss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rec_models.step_batch import StepBatch
from rec_models.stepping import BatchLoss

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


class RecordedSteps:
    """Trains on batches, each size recorded when it comes for the second time.

    The first batch of a size is trained on kernel by kernel: that compiles what needs compiling, and makes the
    optimiser's states. Dropout and negatives are what they would be without a recording: torch hands a replay the
    generator's seed of the moment, and the negatives' step is read on the device.

    Args:
        loss: of an encoder on a GPU.
        optimizer: one that never waits for the device.
    """

    def __init__(self, loss: BatchLoss, optimizer: torch.optim.Optimizer) -> None:
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
        with torch.autocast(kind, enabled=False):  # Lightning's, which backward must not run under
            with torch.autocast(kind, torch.bfloat16):
                mean = self._loss(batch, self._step)
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
