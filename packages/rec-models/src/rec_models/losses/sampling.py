"""Settings of sampled losses, made into samplers of cce_kernels or into plain torch draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cce_kernels import InBatch, Popularity, Uniform, sampled_linear_cross_entropy
from cce_kernels.sampled.kernels.state import copy_pays
from cce_kernels.sampled.tuning import SCRATCH_BYTES
from rec_models.config import LossSettings
from rec_models.losses.base import Loss, LossContext, seeded_generator
from rec_models.losses.cost import LossCost, LossSize


def fused_loss(settings: LossSettings, item_counts: Tensor | None, objective: Any) -> Loss:
    """A sampled loss of cce_kernels.

    Args:
        settings: negatives and implementation.
        item_counts: [V] int64; needed by popularity sampling only.
        objective: one of cce_kernels' objectives.

    Raises:
        ValueError: popularity sampling without counts.
    """
    sampler = _sampler(settings, item_counts)
    num_negatives, sharing, impl = settings.num_negatives, settings.sharing, settings.impl
    assert num_negatives is not None
    assert sharing is not None
    assert impl is not None
    tile_tokens = settings.tile_tokens or 64  # of no effect unless sharing is tile

    def sampled(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        loss: Tensor = sampled_linear_cross_entropy(
            hidden,
            weight,
            targets,
            num_negatives=num_negatives,
            seed=context.seed,
            step=context.step,
            row_offset=context.row_offset,
            sampler=sampler,
            objective=objective,
            sharing=sharing,
            tile_tokens=tile_tokens,
            sparse_grad=context.sparse_grad,
            impl=impl,
        )
        return loss

    return sampled


def _sampler(settings: LossSettings, item_counts: Tensor | None) -> Any:
    if settings.sampling == "uniform":
        return Uniform()
    if settings.sampling == "in_batch":
        return InBatch(logq=settings.logq)
    return Popularity(
        counts_of(item_counts), alpha=1.0 if settings.alpha is None else settings.alpha, logq=settings.logq
    )


def counts_of(item_counts: Tensor | None) -> Tensor:
    """The counts [V].

    Raises:
        ValueError: there are none; the message says who needs them.
    """
    if item_counts is None:
        raise ValueError("item_counts: found None, allowed: [V] counts, because sampling=popularity draws by them")
    return item_counts


def check_counts(item_counts: Tensor) -> None:
    """Refuse counts [V] that no item can be drawn by; on a GPU this waits for the device.

    Raises:
        ValueError: a count is negative or not finite, or all are 0.
    """
    least, most = (float(bound) for bound in item_counts.aminmax())
    if not (least >= 0 and 0 < most < math.inf):
        raise ValueError(
            f"item_counts: found {least:g} to {most:g} for sampling=popularity, "
            "allowed: counts from 0, one of them above 0"
        )


@dataclass(frozen=True)
class Draws:
    """Negatives drawn in plain torch for G groups of T consecutive tokens, and what corrects their scores."""

    ids: Tensor  # [G, N] int64
    group_tokens: int  # T; the last group may be short
    log_q: Tensor | None  # [V] fp32 log q of every item; None: uniform, or not corrected by q

    def for_tokens(self, num_tokens: int) -> Tensor:
        """[M, N] int64: the ids of each token."""
        return self.ids.repeat_interleave(self.group_tokens, 0)[:num_tokens]


def draw(
    settings: LossSettings, item_counts: Tensor | None, targets: Tensor, num_items: int, context: LossContext
) -> Draws:
    """Draw with torch's own generators, as plain code does; with replacement, hits not removed.

    Args:
        settings: num_negatives, sampling, alpha, logq, sharing, tile_tokens.
        item_counts: [V]; used by popularity sampling.
        targets: [M] int64, M at least 1.
        num_items: V.
        context: what the draws are a function of.

    Raises:
        ValueError: popularity sampling without counts.
    """
    num_tokens = targets.numel()
    group_tokens = {"none": 1, "tile": settings.tile_tokens or 1, "batch": num_tokens}[settings.sharing or "none"]
    shape = (-(-num_tokens // group_tokens), settings.num_negatives or 1)
    generator = seeded_generator(targets.device, context, "negatives")
    if settings.sampling == "popularity":
        counts = counts_of(item_counts).to(targets.device, torch.float64)
        powers = counts.pow(1.0 if settings.alpha is None else settings.alpha)
        q = torch.where(counts > 0, powers, 0.0)  # 0 ** 0 is 1
        cumulative = q.cumsum(0)  # [V]; binary search has no limit of 2^24 items, unlike torch.multinomial
        points = torch.rand(shape, dtype=torch.float64, device=targets.device, generator=generator) * cumulative[-1]
        ids = torch.searchsorted(cumulative, points, right=True).clamp_max(num_items - 1)
        log_q = (q / cumulative[-1]).log().float() if settings.logq else None
    elif settings.sampling == "in_batch":
        rows = torch.randint(num_tokens, shape, device=targets.device, generator=generator)
        ids = targets[rows]
        log_q = (torch.bincount(targets, minlength=num_items) / num_tokens).log() if settings.logq else None
    else:
        ids = torch.randint(num_items, shape, device=targets.device, generator=generator)
        log_q = None
    return Draws(ids, group_tokens, log_q)


def scores_of(hidden: Tensor, weight: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Scores of each token with its target, [M] fp32, and with its negatives, [M, N] fp32.

    Rows of negatives are gathered once a group, then it is matrix products.

    Args:
        hidden: [M, D].
        weight: [V, D].
        targets: [M] int64.
        draws: the negatives of the M tokens.
    """
    num_tokens, width = hidden.shape
    groups = draws.ids.shape[0]
    missing = groups * draws.group_tokens - num_tokens
    grouped = torch.nn.functional.pad(hidden, (0, 0, 0, missing)).view(groups, draws.group_tokens, width)
    negatives, positives = gather(weight, draws.ids, targets)  # [G, N, D], [M, D]
    scores = torch.matmul(grouped, negatives.to(hidden.dtype).transpose(1, 2))  # [G, T, N]
    return target_scores(hidden, positives), scores.flatten(0, 1)[:num_tokens].float()


def gather(weight: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
    """Rows of the table [V, D] for ids of any shapes; in one go: each lookup makes a gradient [V, D] of its own."""
    rows = torch.nn.functional.embedding(torch.cat([part.flatten() for part in ids]), weight)
    parts = torch.split(rows, [part.numel() for part in ids])
    return tuple(part.view(*which.shape, -1) for part, which in zip(parts, ids, strict=True))


def target_scores(hidden: Tensor, positives: Tensor) -> Tensor:
    """[M] fp32 scores of tokens [M, D] with the rows of their targets [M, D]."""
    return (hidden.float() * positives.float()).sum(-1)


def fused_cost(size: LossSize) -> LossCost:
    """The hidden gradient, a 16-bit copy of the table where it pays, scratch for sums, and M N D multiplications."""
    shared = size.groups < size.tokens
    dhidden = 2 * size.tokens * size.width
    rows_read = size.groups * size.negatives * (2 if shared else 1)
    table, products = (torch.empty(size.items, 0, dtype=kind, device="meta") for kind in (torch.float, torch.bfloat16))
    copy = 2 * size.items * size.width if copy_pays(table, products, int(rows_read)) else 0
    # The sums take their own bound, and a share of the hidden gradient on which three measured shapes agree.
    scratch = 0 if shared else SCRATCH_BYTES + 0.4 * size.items * size.width + 0.7 * dhidden
    rate = "own_elements" if size.options["sharing"] == "none" else "shared_elements"
    work = {rate: size.tokens * size.negatives * size.width}
    return LossCost(copy + dhidden, (copy if shared else 0) + dhidden + max(scratch, dhidden), work)
