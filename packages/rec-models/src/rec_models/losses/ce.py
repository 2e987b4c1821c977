"""Cross-entropy over the catalogue, in plain torch: ``L_m = logsumexp_j s_mj - s_mt``.

The honest baseline: the [M, V] logits are materialised.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rec_models.config import LossSettings
from rec_models.losses.base import Loss, LossContext, no_tokens
from rec_models.losses.cost import LossCost, LossSize


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    return cross_entropy


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
    """See `Loss.__call__`."""
    if targets.numel() == 0:
        return no_tokens(hidden, weight)
    logits = functional.linear(hidden, weight)  # [M, V]
    return functional.cross_entropy(logits.float(), targets)


def ce_cost(size: LossSize) -> LossCost:
    """The logits (16-bit, fp32, log-softmax; then their gradient), a 16-bit copy of the table, and three products."""
    logits, table = size.tokens * size.items, 2 * size.items * size.width
    work = {"exact_flops": 6.0 * logits * size.width, "logit_elements": logits}
    return LossCost(table + 10 * logits, table + 12 * logits, work, with_gradient=False)
