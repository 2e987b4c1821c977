"""What a loss costs, for predictions before a run: the types that all losses share, and the terms of fused ones.

Each loss states its cost in its own file, as a function from `LossSize` to `LossCost`. `rec_models.planning` adds the
network, the optimizer and the rates of a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class LossSize(NamedTuple):
    """What the memory and the work of a loss depend on."""

    items: int
    """V, the catalogue."""
    width: int
    """D, of hidden states and of the item table."""
    tokens: float
    """M, the targets of a batch (expected, so it may be fractional)."""
    negatives: int
    """N per token; 0 for a loss without negatives."""
    groups: float
    """Sets of negatives: M over the tokens that share one."""
    options: Mapping[str, Any]
    """The fields of `rec_models.config.LossSettings`, for example ``options["sce_buckets"]``."""


class LossCost(NamedTuple):
    """Bytes that a loss adds to a step, without the fp32 gradient of the item table, and its work."""

    forward: float
    """Bytes at the end of its forward pass."""
    backward: float
    """Bytes at the worst moment of its backward pass."""
    work: dict[str, float]
    """Of forward and backward, by the rate of `rec_models.planning.seconds.RATES` that divides it."""
    with_gradient: bool = True
    """Whether the item table's gradient already exists at that moment of the backward pass."""
