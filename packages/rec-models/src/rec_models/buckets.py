"""Batches filled up to a few sizes, so that a recorded step serves many of them."""

from __future__ import annotations

import numpy as np
import torch

from rec_models.backbones.layout import Layout
from rec_models.step_batch import IGNORED, PackedBatch, StepBatch


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
