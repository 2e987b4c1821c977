"""The losses: one file each, one signature, and the registry that names them.

Definitions: the docstring of each file. All take valid tokens only and return the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rec_models.config import LossSettings
from rec_models.losses import bce, bce_neg, cce, cce_neg, ce, ce_neg, gbce, sce
from rec_models.losses import paper as faithful
from rec_models.losses.base import Builder, Loss, LossContext
from rec_models.losses.cost import LossCost, LossSize
from rec_models.losses.sampling import check_counts, fused_cost


class Entry(NamedTuple):
    """A loss in the registry."""

    build: Builder
    cost: Callable[[LossSize], LossCost]
    """Its memory and work."""
    less_memory: str = ""
    """What lowers its memory beside smaller batches, to be read behind "lower batch_size or max_seq_len, or"."""


LOSSES: dict[str, Entry] = {
    "ce": Entry(ce.build, ce.ce_cost, "take loss=cce, which never holds the logits of the catalogue"),
    "ce_neg": Entry(ce_neg.build, ce_neg.ce_neg_cost, "num_negatives; loss=cce_neg holds no scores"),
    "cce": Entry(cce.build, cce.cce_cost),
    "cce_neg": Entry(cce_neg.build, fused_cost, "num_negatives"),
    "bce": Entry(bce.build, fused_cost),
    "bce_neg": Entry(bce_neg.build, fused_cost, "num_negatives"),
    "gbce": Entry(gbce.build, fused_cost, "num_negatives"),
    "sce": Entry(sce.build, sce.sce_cost, "the sce bucket sizes"),
}

# The losses whose own formula the paper's code gets wrong; the others are the same in both registries.
FAITHFUL_LOSSES: dict[str, Entry] = LOSSES | {
    "cce_neg": Entry(faithful.build_cce_neg, faithful.paper_cost, "num_negatives"),
    "bce": Entry(faithful.build_bce, faithful.paper_cost),
    "bce_neg": Entry(faithful.build_bce, faithful.paper_cost, "num_negatives"),
}


def entry_of(settings: LossSettings) -> Entry:
    """The registry's entry of the loss that the settings describe."""
    return (FAITHFUL_LOSSES if settings.paper_faithful else LOSSES)[settings.loss]


def build_loss(settings: LossSettings, item_counts: Tensor | None = None) -> Loss:
    """The loss that the settings describe.

    Args:
        settings: which loss, and its options.
        item_counts: [V] int64, how often training saw each item; needed by popularity sampling only.

    Raises:
        ValueError: popularity sampling without counts, or with counts that nothing can be drawn by.
    """
    if settings.sampling == "popularity" and item_counts is not None:
        check_counts(item_counts)
    return entry_of(settings).build(settings, item_counts)


__all__ = ["FAITHFUL_LOSSES", "LOSSES", "Entry", "Loss", "LossContext", "build_loss", "entry_of"]
