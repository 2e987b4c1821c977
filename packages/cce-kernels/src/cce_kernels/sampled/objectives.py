"""Objectives of the sampled loss: which scalar function of the scores is summed."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from cce_kernels.checks import is_number


class Terms(NamedTuple):
    """What the kernels need to know of an objective.

    For a pointwise objective the loss of a token is
    `scale * (positive_weight * softplus(-s_t) + sum_n softplus(s_n))`; the softmax multiplies its scores by the scale.
    """

    softmax: bool
    positive_weight: float
    scale: float


@dataclass(frozen=True)
class Softmax:
    """Sampled softmax: `log(e^{s_t} + sum_n e^{s'_n}) - s_t` with corrected scores `s'` of the negatives.

    Attributes:
        temperature: scores, with their bias, are divided by it before they are corrected.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.temperature) or not 0.0 < self.temperature < math.inf:
            raise ValueError(f"Softmax.temperature: found {self.temperature!r}, allowed: a finite number above 0")

    def terms(self, num_negatives: int, num_items: int) -> Terms:
        """Resolve for sizes that are known at the call."""
        return Terms(True, 1.0, 1.0 / self.temperature)


@dataclass(frozen=True)
class BCE:
    """Binary cross-entropy: `-[log sigma(s_t) + sum_n log(1 - sigma(s_n))]`."""

    def terms(self, num_negatives: int, num_items: int) -> Terms:
        """Resolve for sizes that are known at the call."""
        return Terms(False, 1.0, 1.0)


@dataclass(frozen=True)
class GBCE:
    """Generalised BCE (Petrov and Macdonald, "gSASRec", RecSys 2023).

    `-[beta log sigma(s_t) + sum_n log(1 - sigma(s_n))] / (N + 1)` with `beta = 1 - t (1 - a)`, `a = N / (V - 1)`.

    Attributes:
        t: calibration in [0, 1]; 0 is BCE divided by N + 1, 1 undoes the sampling.
    """

    t: float = 0.75

    def __post_init__(self) -> None:
        if not is_number(self.t) or not 0.0 <= self.t <= 1.0:
            raise ValueError(f"GBCE.t: found {self.t!r}, allowed: a number in [0, 1]")

    def terms(self, num_negatives: int, num_items: int) -> Terms:
        """Resolve for sizes that are known at the call.

        Raises:
            ValueError: more negatives than other items: the sampling rate would pass 1.
        """
        if num_negatives > num_items - 1:
            raise ValueError(f"num_negatives: found {num_negatives}, allowed with GBCE: up to V - 1 = {num_items - 1}")
        rate = num_negatives / (num_items - 1)
        return Terms(False, 1.0 - self.t * (1.0 - rate), 1.0 / (num_negatives + 1))


Objective = Softmax | BCE | GBCE


def encode(objective: Objective) -> tuple[str, float]:
    """An objective as the name and the number that a custom operator can take."""
    number = objective.t if isinstance(objective, GBCE) else 0.0
    return type(objective).__name__, objective.temperature if isinstance(objective, Softmax) else number


def decode(name: str, t: float) -> Objective:
    """The inverse of `encode`."""
    if name == "BCE":
        return BCE()
    return Softmax(t) if name == "Softmax" else GBCE(t)
