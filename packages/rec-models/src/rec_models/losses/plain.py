"""Cross-entropy over the catalogue and over sampled negatives, in plain torch: the baselines.

- ``ce``: ``L_m = logsumexp_j s_mj - s_mt``; the [M, V] logits are stored.
- ``ce_neg``: ``L_m = log(e^{s_t} + sum_n e^{s'_n}) - s_t``. Negatives come from q with replacement; one equal to the
  target is removed. With N_m left, a negative's corrected score is ``s - log(N_m q_j / (1 - q_t))``: under uniform q
  that is ``s + log((V - 1) / N_m)``, which ``logq=False`` uses for every q. Gathered rows and [M, N] scores are stored,
  ids come from torch's generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rec_models.losses.base import Loss, LossContext
from rec_models.losses.registry import LossCost, LossSize
from rec_models.losses.sampling import Draws, at_least_fp32, draw, no_tokens, sampler_of, scores_of
from rec_models.losses.settings import LossSettings


def ce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    return cross_entropy


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
    """See `Loss.__call__`."""
    if targets.numel() == 0:
        return no_tokens(hidden, weight)
    logits = functional.linear(hidden, weight)  # [M, V]
    return functional.cross_entropy(at_least_fp32(logits), targets)


def ce_neg(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    sampler = sampler_of(settings, item_counts)

    def sampled_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        draws = draw(settings, sampler, targets, weight.shape[0], context)
        return no_tokens(hidden, weight) if draws is None else loss_of_draws(hidden, weight, targets, draws)

    return sampled_cross_entropy


def loss_of_draws(hidden: Tensor, weight: Tensor, targets: Tensor, draws: Draws) -> Tensor:
    """The loss for given negatives; see `Loss.__call__` for the other arguments."""
    num_tokens, num_items = targets.numel(), weight.shape[0]
    ids = draws.for_tokens(num_tokens)  # [M, N]
    hits = ids == targets[:, None]
    left = (~hits).sum(1, keepdim=True).clamp_min(1)  # [M, 1]; without any negative left the loss is 0 anyway
    positive, scores = scores_of(hidden, weight, targets, draws)  # [M], [M, N]
    if draws.log_q is None:
        scores = scores + (math.log(num_items - 1) - left.log())
    else:
        log_rest = torch.log1p(-draws.log_q[targets].exp())[:, None]  # [M, 1]
        scores = scores - left.log() - draws.log_q[ids] + log_rest
    scores = scores.masked_fill(hits, -math.inf)
    return functional.cross_entropy(torch.cat([positive[:, None], scores], 1), torch.zeros_like(targets))


def ce_cost(size: LossSize) -> LossCost:
    """The logits (16-bit, fp32, log-softmax; then their gradient), a 16-bit copy of the table, and three products."""
    logits, table = size.tokens * size.items, 2 * size.items * size.width
    work = {"exact_flops": 6.0 * logits * size.width, "logit_elements": logits}
    return LossCost(table + 10 * logits, table + 12 * logits, work, with_gradient=False)


def ce_neg_cost(size: LossSize) -> LossCost:
    """The gathered rows and the [M, N] scores."""
    rows, scores = size.groups * size.negatives * size.width, size.tokens * size.negatives
    # Not measured where a whole batch shares one set: counted like sets for 64 tokens.
    sharing = 1 if size.options["sharing"] == "none" else size.options["tile_tokens"] or 64
    work = {"gathered_elements": scores * size.width / sharing}
    return LossCost(6 * rows + 17 * scores, 8 * rows + 21 * scores + 24 * size.groups * size.negatives, work)
