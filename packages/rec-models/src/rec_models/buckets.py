"""Batches filled up to a few sizes, so that a recorded step serves many of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rec_models.backbones.layout import Layout, layout_of
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


def fill_bucket(batch: StepBatch, width: int) -> StepBatch:
    """Add histories without a target, behind the real ones: loss and gradient stay the same.

    They repeat the batch's first items, and the added rows its first rows: thousands of places with one item would be
    summed one after another in the gradient of the lookup.

    Real places keep their numbers, and with them the negatives that they draw. How many histories are added depends on
    the size alone (some may be empty): shapes are a function of the numbers of histories, of places and of targets,
    each of the last two filled up.

    Args:
        batch: on the host.
        width: the longest history that the network takes: the same for all batches.
    """
    real = batch.items.numel()
    places = bucket_of(real)
    missing = places - real
    histories = -(-_step(real) // width)
    added = [min(width, max(0, missing - width * number)) for number in range(histories)]
    lengths = torch.cat([batch.layout.starts.diff().long(), torch.tensor(added)])
    targets = bucket_of(batch.targets.numel()) if batch.rows is not None else places
    return batch._replace(
        items=_repeat(batch.items, places),
        layout=layout_of(lengths, width),
        masked=None if batch.masked is None else _fill(batch.masked, places, False),
        rows=None if batch.rows is None else _repeat(batch.rows, targets),
        targets=_fill(batch.targets, targets, IGNORED),
    )


def prepare_filled(batch: PackedBatch, width: int) -> StepBatch:
    """What `fill_bucket` makes of `prepare_packed`, to the bit, without making the layout twice.

    In NumPy: torch lets go of Python's lock at every operation, and a thread that prepares batches beside a training
    loop waits long for each of them.

    Args:
        batch: of T places; best on the host, because one on a device is waited for.
        width: as in `fill_bucket`.
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


def _repeat(values: Tensor, size: int) -> Tensor:
    """The values, then the first ones again; zeros if there are none."""
    real = values.numel()
    return values.repeat(-(-size // real))[:size] if 0 < real < size else _fill(values, size, 0)


def _fill(values: Tensor, size: int, value: int) -> Tensor:
    filled = values.new_full((size,), value)
    filled[: values.numel()] = values
    return filled
