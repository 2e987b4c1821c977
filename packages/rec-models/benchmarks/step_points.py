"""Batches shaped like the paper's data sets, made once: no time of theirs is in the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Point(NamedTuple):
    """A data set's batch: published or estimated sizes; lengths are log-normal with this mean and median."""

    items: int
    hidden: int
    batch_size: int
    max_seq_len: int
    negatives: int
    mean_length: float
    median_length: float
    must_ms: float | None = None  # cce_neg, sharing tile
    aim_ms: float | None = None
    limit_gib: float | None = None  # the lower one of the paper's rows, CCE and CCE-, run on an H100; large: 40 GiB


POINTS = {
    "beauty": Point(176_450, 256, 1024, 32, 511, 7.5, 5.5, 3.5, 1.2, 1.5),
    "movielens_20m": Point(15_405, 256, 256, 512, 511, 88, 43, 8, 2.6, 2.5),
    "gowalla": Point(290_000, 256, 1024, 320, 511, 45, 22, 21, 7, 7.1),
    "30music": Point(900_000, 256, 256, 720, 4095, 523, 260, 145, 49, 7.2),
    "zvuk": Point(893_022, 256, 1024, 128, 2047, 657, 290, 84, 28, 6.4),
    "large": Point(9_400_000, 128, 256, 64, 511, 60, 40, limit_gib=40),
    "tiny": Point(5_000, 64, 32, 16, 31, 8, 6),  # to try the script
}
DISTINCT = 8


class SyntheticBatch(NamedTuple):
    """See `rec_models.training.batch.Batch`."""

    items: Tensor
    offsets: Tensor
    targets: Tensor
    masked: Tensor | None = None


class SyntheticBatches:
    """A few different batches without padding, given again and again."""

    def __init__(self, point: Point, steps: int) -> None:
        self._steps = steps
        random = np.random.default_rng(0)
        sigma = math.sqrt(2 * math.log(point.mean_length / point.median_length))
        self._batches = [self._make(point, random, sigma) for _ in range(DISTINCT)]

    @staticmethod
    def _make(point: Point, random: np.random.Generator, sigma: float) -> SyntheticBatch:
        drawn = np.exp(math.log(point.median_length) + sigma * random.standard_normal(point.batch_size))
        lengths = np.clip(drawn, 2, point.max_seq_len + 1).astype(np.int64) - 1
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        # Squaring a uniform number makes low ids popular: repeated targets, as in a real log.
        items = [
            torch.from_numpy((random.random(int(offsets[-1])) ** 2 * point.items).astype(np.int64)) for _ in range(2)
        ]
        return SyntheticBatch(items[0], offsets, items[1])

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SyntheticBatch]:
        """See `rec_models.training.prefetch.Batches`."""
        return (self._batches[index % DISTINCT] for index in range(start, self._steps))
