"""The losses as everything around training knows them: how they are written and drawn, and what they use.

The losses themselves are in `rec_models.losses`. This module imports nothing, so that reports and tables need no torch;
a test holds it to the registry there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossFacts:
    """What tables, pictures and results need to know of a loss."""

    title: str
    """As the paper writes it."""
    colour: str
    """In pictures."""
    draws: bool = False
    """It draws negatives."""
    corrects: bool = False
    """It can correct scores by log q."""
    fused: bool = False
    """It is computed by cce_kernels, which has several implementations."""


LOSSES: dict[str, LossFacts] = {
    "ce": LossFacts("CE", "#c0392b"),
    "ce_neg": LossFacts("CE-", "#e59866", draws=True, corrects=True),
    "cce": LossFacts("CCE", "#1f5fa8", fused=True),
    "cce_neg": LossFacts("CCE-", "#5dade2", draws=True, corrects=True, fused=True),
    "bce": LossFacts("BCE", "#7d8a2e", draws=True, fused=True),
    "bce_neg": LossFacts("BCE+", "#b5c334", draws=True, fused=True),
    "gbce": LossFacts("gBCE", "#16a085", draws=True, fused=True),
    "sce": LossFacts("SCE", "#7d3c98"),
}
SAMPLED = tuple(name for name, facts in LOSSES.items() if facts.draws)
"""The losses that draw negatives."""
