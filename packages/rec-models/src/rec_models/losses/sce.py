"""Scalable cross-entropy (Mezentsev et al., 2024): CE within random buckets of tokens and items that fit each other.

Bucket centres are noise, or random mixtures of the batch's tokens. A bucket takes the tokens and the items with the
largest inner products with its centre. Each token has a CE against its bucket's items and its own target, other
occurrences of the target masked; a token in several buckets keeps its largest loss; the loss is the mean over the
tokens that are in a bucket. Sizes are clamped to the tokens and items there are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rec_models.losses.base import Loss, LossContext, Ranks
from rec_models.losses.registry import LossCost, LossSize
from rec_models.losses.sampling import at_least_fp32, gather, no_tokens, seeded_generator, target_scores
from rec_models.losses.settings import LossSettings


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    buckets = settings.sce_buckets or 1
    size_x, size_y = settings.sce_bucket_size_x or 1, settings.sce_bucket_size_y or 1

    def scalable_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        ranks = context.ranks
        if ranks is not None:
            hidden, targets = ranks.gather(hidden), ranks.gather(targets)
        if targets.numel() == 0:
            return no_tokens(hidden, weight)
        generator = seeded_generator(hidden.device, context, "buckets")
        mix = hidden.shape[0] if settings.sce_mix_x else hidden.shape[1]
        noise = torch.randn(buckets, mix, device=hidden.device, generator=generator)
        noise = noise if ranks is None else noise[ranks.rank :: ranks.size]  # a rank works on its share of the buckets
        centres = noise @ hidden.detach().to(noise.dtype) if settings.sce_mix_x else noise  # [B, D]
        tokens = _nearest(centres, hidden, size_x)  # [B, X]
        items = _nearest(centres, weight, size_y)  # [B, Y]
        return loss_of_buckets(hidden, weight, targets, tokens, items, ranks)

    return scalable_cross_entropy


@torch.no_grad()
def _nearest(centres: Tensor, rows: Tensor, size: int) -> Tensor:
    """[B, size] int64: the rows with the largest inner products; size is clamped to the rows there are."""
    scores = centres.to(rows.dtype) @ rows.T  # [B, rows]
    return scores.topk(min(size, rows.shape[0]), dim=1, sorted=False).indices


def loss_of_buckets(
    hidden: Tensor, weight: Tensor, targets: Tensor, tokens: Tensor, items: Tensor, ranks: Ranks | None = None
) -> Tensor:
    """The loss for buckets of tokens [B, X] (int64 rows of hidden) and items [B, Y] (int64 rows of weight).

    With `ranks`, the others have other buckets of the same tokens. A token counts where its largest loss is, in parts
    where several buckets have it.

    See `rec_models.losses.base.Loss` for the other arguments.
    """
    picked = hidden[tokens]  # [B, X, D]
    negatives, positives = gather(weight, items, targets)  # [B, Y, D], [M, D]
    wrong = torch.matmul(picked, negatives.to(hidden.dtype).transpose(1, 2))  # [B, X, Y]
    wrong = at_least_fp32(wrong)
    wrong = wrong.masked_fill(targets[tokens][:, :, None] == items[:, None, :], -math.inf)
    positive = target_scores(hidden, positives)[tokens]  # [B, X]
    losses = torch.logaddexp(torch.logsumexp(wrong, 2), positive) - positive
    kept = losses.new_full((targets.numel(),), -math.inf)
    kept = kept.scatter_reduce(0, tokens.flatten(), losses.flatten(), "amax")  # [M]
    found = kept != -math.inf  # in a bucket; a loss that is no number must reach the mean
    if ranks is not None:
        most = ranks.each(kept.detach()).amax(0)
        tied = (~(losses.detach() < most[tokens])).to(kept.dtype).flatten()  # buckets with the largest loss of a token
        own = torch.zeros_like(most).scatter_add(0, tokens.flatten(), tied)
        part = own / ranks.each(own).sum(0).clamp(min=1)
        return torch.where(own > 0, kept * part, 0.0).sum() / (most != -math.inf).sum()
    return torch.where(found, kept, 0.0).sum() / found.sum()  # without picking them out: that would wait for the device


def cost(size: LossSize) -> LossCost:
    """The search for the buckets, or the scores and rows in them, whichever is larger."""
    buckets = size.options["sce_buckets"]
    across = min(size.options["sce_bucket_size_x"], size.tokens)
    down = min(size.options["sce_bucket_size_y"], size.items)
    table, rows = buckets * across * down, buckets * (across + down) * size.width
    search = 2 * size.items * size.width + 2 * buckets * size.items + 4 * buckets * size.tokens
    search_flops = 2.0 * buckets * (size.items + 2 * size.tokens) * size.width
    work = {"exact_flops": search_flops + 6.0 * table * size.width, "bucket_elements": table + buckets * size.items}
    return LossCost(max(search, 11 * table + 6 * rows), 15 * table + 8 * rows, work)
