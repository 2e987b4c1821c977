"""The paper's own sampled losses, defects included, for comparison with its tables (``paper_faithful=True``).

CCE-: a rejected negative stays in the sum as a score of 0 before correction, without gradient, and the correction uses
log(N + 1). BCE and BCE+: negatives equal to the target stay, and logarithms are of sigma + 1e-6.
Plain torch: the numbers are the paper's, the speed and the memory are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rec_models.encoders import Encoder
from rec_models.encoders.packing import layout_of
from rec_models.losses.base import Builder, Loss, LossContext
from rec_models.losses.registry import LOSSES, LossCost, LossSize
from rec_models.losses.sampling import Draws, draw, no_tokens, sampler_of, scores_of
from rec_models.losses.settings import LossSettings


def trains_padding(settings: LossSettings) -> bool:
    """Whether `with_padding_targets` comes before the loss: P more tokens are then in its mean."""
    return settings.paper_faithful and LOSSES[settings.loss].faithful_padding


def with_padding_targets(encoder: Encoder, tokens: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Add the P places that left padding to ``max_seq_len`` would have made, each with target 0.

    A padded place sees padding only, so one history of nothing but item 0 gives the vectors of all of them. From tokens
    [M, D] at the real places, targets [M] int64 and lengths [B] int64 to [M + P, D] and [M + P].
    """
    full = encoder.settings.max_seq_len
    padding = torch.zeros(full, dtype=torch.int64, device=lengths.device)
    layout = layout_of(torch.tensor([full], device=lengths.device), full)
    vectors = encoder(padding, layout).to(tokens.dtype)  # [max_seq_len, D]
    places = torch.arange(full, device=lengths.device)
    padded = places.expand(lengths.numel(), full)[places < (full - lengths)[:, None]]  # [P], left of each history
    return torch.cat([tokens, vectors[padded]]), torch.cat([targets, targets.new_zeros(padded.numel())])


SumOfTokens = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_CHUNK_ELEMENTS = 1 << 27  # gathered values of a chunk of tokens: half a GiB in fp32
_EPSILON = 1e-6


def cce_neg_sum(hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
    """Sum of the paper's CCE- over tokens: hidden [M, D], weight [V, D], targets [M], ids [M, N]."""
    positive, scores = scores_of(hidden, weight, targets, Draws(ids, 1, None))  # [M], [M, N]
    scores = scores.masked_fill(ids == targets[:, None], 0.0)
    scores = scores + (math.log(weight.shape[0] - 1) - math.log(ids.shape[1] + 1))
    return torch.nn.functional.softplus(torch.logsumexp(scores, 1) - positive).sum()


def bce_sum(hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
    """Sum of the paper's BCE over tokens: hidden [M, D], weight [V, D], targets [M], ids [M, N]."""
    positive, scores = scores_of(hidden, weight, targets, Draws(ids, 1, None))  # [M], [M, N]
    rejected = torch.log(1 - torch.sigmoid(scores) + _EPSILON).sum(1)
    return -(torch.log(torch.sigmoid(positive) + _EPSILON) + rejected).sum()


def _in_chunks(sum_of: SumOfTokens, settings: LossSettings, item_counts: Tensor | None) -> Loss:
    sampler = sampler_of(settings, item_counts)

    def mean(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        draws = draw(settings, sampler, targets, weight.shape[0], context)
        if draws is None:
            return no_tokens(hidden, weight)
        step = max(1, _CHUNK_ELEMENTS // (draws.ids.shape[1] * hidden.shape[1]))
        total = torch.zeros((), device=hidden.device)
        for start in range(0, targets.numel(), step):
            part = slice(start, start + step)
            # Recomputed in backward: the gathered rows of one chunk at a time.
            total = total + checkpoint(
                sum_of, hidden[part], weight, targets[part], draws.ids[part], use_reentrant=False
            )
        return total / targets.numel()

    return mean


cce_neg: Builder = partial(_in_chunks, cce_neg_sum)
bce: Builder = partial(_in_chunks, bce_sum)  # and BCE+


def cost(size: LossSize) -> LossCost:
    """The ids, one chunk of gathered rows, and a second gradient of the table while chunks add up."""
    drawn = size.tokens * size.negatives
    ids, chunk = 8 * drawn, min(_CHUNK_ELEMENTS, drawn * size.width)
    backward = ids + 12 * chunk + 4 * size.items * size.width
    return LossCost(ids, backward, {"gathered_elements": drawn * size.width})
