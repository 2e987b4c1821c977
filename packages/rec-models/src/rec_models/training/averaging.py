"""An exponential moving average of the weights.

Weights of single steps scatter around a better point, because the learning rate is constant; their average is nearer to
it. ``torch.optim.swa_utils.AveragedModel`` has the same arithmetic, but it copies a counter to the device at each
update, which waits for the device, so that recorded steps could no longer be launched ahead.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from rec_models.encoders import Encoder

UPDATES = 25
"""Updates within a time constant, or within an epoch where that is shorter: more change the average little."""


class AveragedEncoder:
    """A copy of an encoder, in whose place it is validated and kept, with the average of its weights.

    The first updates give the mean of all weights so far, ``w = (w_1 + ... + w_n) / n``, so that the weights of the
    start have no lasting share; once 1 / n is smaller, ``w += (w_n - w) (1 - exp(-interval / constant))``.

    Args:
        encoder: the one in training, on its device.
        epochs: the time constant, above 0.
        steps: optimizer steps of an epoch.
    """

    def __init__(self, encoder: Encoder, epochs: float, steps: int) -> None:
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self._averages: list[Tensor] = list(self.encoder.parameters())
        self._weights: list[Tensor] = list(encoder.parameters())
        self._interval = max(1, int(min(epochs, 1.0 * UPDATES) * steps / UPDATES))  # steps from an update to the next
        self._least = -math.expm1(-self._interval / (epochs * steps))

    def is_due(self, step: int) -> bool:
        """Whether to update after a step, from 1; the first update is within the first epoch."""
        return step % self._interval == 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after a step that `is_due`; it never waits for the device."""
        share = max(self._interval / step, self._least)
        torch._foreach_lerp_(self._averages, self._weights, share)
