"""The distributions that negatives come from, and negatives drawn from them in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cce_kernels import InBatch, Mixed, Popularity, Uniform
from rec_models.losses.base import LossContext
from rec_models.losses.registry import SAMPLERS, load
from rec_models.losses.settings import LossSettings
from rec_models.randomness import mix_seed

Drawn = tuple[Tensor, Tensor | None]


class Sampler(NamedTuple):
    """A distribution q over items."""

    for_kernels: Callable[[], Any]
    """Makes the sampler of cce_kernels."""
    draw: Callable[[tuple[int, int], Tensor, int, torch.Generator], Drawn]
    """Draws with replacement. From the shape (G groups, N ids each), targets [M] int64 (M at least 1), the number of
    items V and a generator on their device: ids [G, N] int64 and log q of every item [V] fp32, None where scores are
    not corrected by q."""


def uniform(settings: LossSettings, item_counts: Tensor | None) -> Sampler:
    """Every item with the same probability."""

    def draw(shape: tuple[int, int], targets: Tensor, num_items: int, generator: torch.Generator) -> Drawn:
        return torch.randint(num_items, shape, device=targets.device, generator=generator), None

    return Sampler(Uniform, draw)


def popularity(settings: LossSettings, item_counts: Tensor | None) -> Sampler:
    """``q ~ count ** alpha``; a ValueError unless all counts are finite and from 0, one of them above 0."""
    alpha, logq = settings.alpha, settings.logq
    assert alpha is not None
    if item_counts is None:
        raise ValueError("item_counts: found None, allowed: [V] counts, because sampling=popularity draws by them")
    least, most = (float(bound) for bound in item_counts.aminmax())  # on a GPU this waits for the device
    if not (least >= 0 and 0 < most < math.inf):
        found = f"{least:g} to {most:g} for sampling=popularity"
        raise ValueError(f"item_counts: found {found}, allowed: counts from 0, one of them above 0")

    def draw(shape: tuple[int, int], targets: Tensor, num_items: int, generator: torch.Generator) -> Drawn:
        counts = item_counts.to(targets.device, torch.float64)
        q = torch.where(counts > 0, counts.pow(alpha), 0.0)  # 0 ** 0 is 1
        cumulative = q.cumsum(0)  # [V]; binary search has no limit of 2^24 items, unlike torch.multinomial
        points = torch.rand(shape, dtype=torch.float64, device=targets.device, generator=generator) * cumulative[-1]
        ids = torch.searchsorted(cumulative, points, right=True).clamp_max(num_items - 1)
        return ids, (q / cumulative[-1]).log().float() if logq else None

    return Sampler(partial(Popularity, item_counts, alpha=alpha, logq=logq), draw)


def in_batch(settings: LossSettings, item_counts: Tensor | None) -> Sampler:
    """The targets of the batch, as often as they occur in it."""

    def draw(shape: tuple[int, int], targets: Tensor, num_items: int, generator: torch.Generator) -> Drawn:
        rows = torch.randint(targets.numel(), shape, device=targets.device, generator=generator)
        q = torch.bincount(targets, minlength=num_items) / targets.numel()
        return targets[rows], q.log() if settings.logq else None

    return Sampler(partial(InBatch, logq=settings.logq), draw)


def mixed(settings: LossSettings, item_counts: Tensor | None) -> Sampler:
    """``in_batch`` and, for the share ``catalogue_share`` of the draws, ``popularity`` or else ``uniform``.

    It is popularity where the settings have an ``alpha``. The correction is by the mixture of both distributions.
    """
    share, alpha = settings.catalogue_share, settings.alpha
    assert share is not None
    batch = in_batch(settings, None)
    others = uniform(settings, None) if alpha is None else popularity(settings, item_counts)

    def draw(shape: tuple[int, int], targets: Tensor, num_items: int, generator: torch.Generator) -> Drawn:
        ids, log_q = batch.draw(shape, targets, num_items, generator)
        other_ids, other_log_q = others.draw(shape, targets, num_items, generator)
        is_other = torch.rand(shape, device=targets.device, generator=generator) < share
        ids = torch.where(is_other, other_ids, ids)
        if log_q is None:
            return ids, None
        other_q = 1 / num_items if other_log_q is None else other_log_q.exp()
        return ids, ((1 - share) * log_q.exp() + share * other_q).log()

    def for_kernels() -> Mixed:
        drawn = Uniform() if alpha is None or item_counts is None else Popularity(item_counts, alpha=alpha)
        return Mixed(others=drawn, share=share, logq=settings.logq)

    return Sampler(for_kernels, draw)


def sampler_of(settings: LossSettings, item_counts: Tensor | None) -> Sampler:
    """The sampler of a sampled loss; see `popularity` for the item counts [V] int64."""
    assert settings.sampling is not None
    sampler: Sampler = load(SAMPLERS[settings.sampling].build)(settings, item_counts)
    return sampler


@dataclass(frozen=True)
class Draws:
    """Negatives drawn in plain torch for G groups of T consecutive tokens, and what corrects their scores."""

    ids: Tensor  # [G, N] int64
    group_tokens: int  # T; the last group may be short
    log_q: Tensor | None  # [V] fp32 log q of every item; None: uniform, or not corrected by q
    shift: int = 0  # places of the first group that are another rank's

    def for_tokens(self, num_tokens: int) -> Tensor:
        """[M, N] int64: the ids of each token."""
        return self.ids.repeat_interleave(self.group_tokens, 0)[self.shift : self.shift + num_tokens]


def draw(
    settings: LossSettings, sampler: Sampler, targets: Tensor, num_items: int, context: LossContext
) -> Draws | None:
    """Draw with torch's own generators for targets [M] int64; with replacement, hits not removed. None where M = 0.

    The draws are a function of the context: every rank draws for the tokens of all and takes those of its own.
    """
    first, total, pool = 0, targets.numel(), targets
    if context.ranks is not None:
        first, total = context.ranks.first, context.ranks.total
        if SAMPLERS[settings.sampling or "uniform"].from_batch:
            pool = context.ranks.gather(targets)
    if targets.numel() == 0:
        return None
    group_tokens = {"none": 1, "tile": settings.tile_tokens or 1, "batch": total}[settings.sharing or "none"]
    shape = (-(-total // group_tokens), settings.num_negatives or 1)
    ids, log_q = sampler.draw(shape, pool, num_items, seeded_generator(targets.device, context, "negatives"))
    begin, end = first // group_tokens, -(-(first + targets.numel()) // group_tokens)
    return Draws(ids[begin:end], group_tokens, log_q, first - begin * group_tokens)


def seeded_generator(device: torch.device, context: LossContext, purpose: str) -> torch.Generator:
    """A generator that is a function of context and purpose alone: resuming needs no stored state."""
    assert isinstance(context.step, int)
    seed = mix_seed(context.seed, context.step, context.first_row, purpose)
    return torch.Generator(device).manual_seed(seed)


def no_tokens(hidden: Tensor, weight: Tensor) -> Tensor:
    """The loss of nothing, an fp32 scalar 0 attached to hidden [0, D] and weight [V, D]: gradients exist and are 0."""
    return hidden.float().sum() * 0.0 + weight[:1].float().sum() * 0.0


def scores_of(hidden: Tensor, weight: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Scores of each token with its target, [M], and with its negatives, [M, N], fp32 or float64.

    Hidden is [M, D], weight [V, D], targets [M] int64. Rows of negatives are gathered once per group.
    """
    num_tokens, width = hidden.shape
    groups = draws.ids.shape[0]
    missing = groups * draws.group_tokens - draws.shift - num_tokens
    grouped = torch.nn.functional.pad(hidden, (0, 0, draws.shift, missing)).view(groups, draws.group_tokens, width)
    negatives, positives = gather(weight, draws.ids, targets)  # [G, N, D], [M, D]
    scores = torch.matmul(grouped, negatives.to(hidden.dtype).transpose(1, 2))  # [G, T, N]
    own = scores.flatten(0, 1)[draws.shift : draws.shift + num_tokens]
    return target_scores(hidden, positives), at_least_fp32(own)


def at_least_fp32(x: Tensor) -> Tensor:
    """The dtype of sums: float64 as it is, and fp32 for anything else."""
    return x if x.dtype == torch.float64 else x.float()


def gather(weight: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
    """Rows of the table [V, D] for ids of any shapes; in one go: each lookup makes a gradient [V, D] of its own."""
    rows = torch.nn.functional.embedding(torch.cat([part.flatten() for part in ids]), weight)
    parts = torch.split(rows, [part.numel() for part in ids])
    return tuple(part.view(*which.shape, -1) for part, which in zip(parts, ids, strict=True))


def target_scores(hidden: Tensor, positives: Tensor) -> Tensor:
    """[M] scores, fp32 or float64, of tokens [M, D] with the rows of their targets [M, D]."""
    return (at_least_fp32(hidden) * at_least_fp32(positives)).sum(-1)
