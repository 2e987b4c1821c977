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
from rec_models.losses.sampling import Draws, draw, no_tokens, sampler_of, scores_of
from rec_models.losses.settings import LossSettings


def ce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    return cross_entropy


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
    """See `Loss.__call__`."""
    if targets.numel() == 0:
        return no_tokens(hidden, weight)
    logits = functional.linear(hidden, weight)  # [M, V]
    return functional.cross_entropy(logits.float(), targets)


def ce_neg(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    sampler = sampler_of(settings, item_counts)

    def sampled_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        if targets.numel() == 0:
            return no_tokens(hidden, weight)
        return loss_of_draws(hidden, weight, targets, draw(settings, sampler, targets, weight.shape[0], context))

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
