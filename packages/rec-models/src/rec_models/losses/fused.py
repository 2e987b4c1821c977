"""The losses that cce_kernels computes without storing logits; formulas and kernels are there.

``cce``: the same number as ``ce`` without its [M, V] logits. The sampled losses remove negatives equal to the target:

- ``cce_neg``: the formula of ``ce_neg`` without its [M, N] scores and its stored negatives;
- ``bce`` (one negative, as SASRec was published) and ``bce_neg`` (N negatives, BCE+):
  ``-[log sigma(s_t) + sum_n log(1 - sigma(s_n))]``;
- ``gbce`` (Petrov and Macdonald, gSASRec, RecSys 2023):
  ``-[beta log sigma(s_t) + sum_n log(1 - sigma(s_n))] / (N + 1)`` with ``beta = 1 - t (1 - a)``, ``a = N / (V - 1)``.
  N above V - 1 is an error.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cce_kernels import BCE, GBCE, InBatch, Softmax, linear_cross_entropy, sampled_linear_cross_entropy
from cce_kernels.full.tuning import MAX_SPLITS, chunk_tokens, chunks_pay
from cce_kernels.sampled.kernels.state import copy_pays
from cce_kernels.sampled.tuning import SCRATCH_BYTES
from rec_models.losses.base import Builder, Loss, LossContext
from rec_models.losses.registry import LossCost, LossSize
from rec_models.losses.sampling import sampler_of
from rec_models.losses.settings import LossSettings


def cce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    impl = settings.impl
    assert impl is not None

    def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        loss: Tensor = linear_cross_entropy(hidden, weight, targets, impl=impl, shard=context.shard)
        return loss

    return cut_cross_entropy


def gbce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    assert settings.gbce_t is not None
    return _sampled(GBCE(settings.gbce_t), settings, item_counts)


def _sampled(objective: Any, settings: LossSettings, item_counts: Tensor | None) -> Loss:
    sampler = sampler_of(settings, item_counts).for_kernels()
    num_negatives, sharing, impl = settings.num_negatives, settings.sharing, settings.impl
    assert num_negatives is not None
    assert sharing is not None
    assert impl is not None
    tile_tokens = settings.tile_tokens or 64  # has no effect unless sharing is tile

    def sampled(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        source = sampler
        if context.ranks is not None and context.shard is None and isinstance(sampler, InBatch):
            source = replace(sampler, pool=context.ranks.pool(targets))
        loss: Tensor = sampled_linear_cross_entropy(
            hidden,
            weight,
            targets,
            num_negatives=num_negatives,
            seed=context.seed,
            step=context.step,
            row_offset=context.row_offset,
            sampler=source,
            objective=objective,
            sharing=sharing,
            tile_tokens=tile_tokens,
            impl=impl,
            shard=context.shard,
        )
        return loss

    return sampled


cce_neg: Builder = partial(_sampled, Softmax())
bce: Builder = partial(_sampled, BCE())  # and BCE+


def cce_cost(size: LossSize) -> LossCost:
    """A 16-bit copy of the table, the hidden gradient, sums of split passes, and four products: scores come twice.

    The hidden gradient is fp32 until backward rounds it to 16 bits. Wide vectors go by chunks of tokens: the numerators
    of one chunk and an fp32 gradient of the table come on top, and there are three products, which took as long as
    7.45 M V D operations of the four (D 512).
    """
    dhidden = 4 * size.tokens * size.width
    chunked = size.options["impl"] == "auto" and not size.sharded
    if chunked and chunks_pay(size.tokens, size.items, size.width):
        kept = dhidden + 4 * size.items * size.width
        numerators = 2 * size.items * min(size.tokens, chunk_tokens(size.items))
        forward = kept + 2 * size.items * size.width + numerators
        return LossCost(forward, kept + 0.5 * dhidden, {"exact_flops": 7.45 * size.tokens * size.items * size.width})
    forward = 2 * size.items * size.width + dhidden + _split_sums(size.tokens * size.width)
    work = {"exact_flops": 8.0 * size.tokens * size.items * size.width}
    return LossCost(forward, 1.5 * dhidden + _split_sums(size.items * size.width), work)


def _split_sums(elements: float) -> float:
    """Bytes of the fp32 sums of a pass that `cce_kernels.full.tuning.full_splits` may split to fill the GPU.

    They may take twice these bytes, but measured peaks do not rise with them (TUNING.md): other moments are worse.
    """
    parts = min(MAX_SPLITS, int((48 << 20) / max(4 * elements, 1)))
    return 4 * elements * parts if parts > 1 else 0.0


def sampled_cost(size: LossSize) -> LossCost:
    """The hidden gradient, a 16-bit copy of the table where it pays, scratch for sums, and M N D multiplications.

    The hidden gradient is fp32 until backward rounds it to 16 bits.
    """
    shared = size.groups < size.tokens
    rounded = 2 * size.tokens * size.width
    dhidden = 2 * rounded
    rows_read = int(size.groups * size.negatives * (2 if shared else 1))
    table, products = (torch.empty(size.items, 0, dtype=kind, device="meta") for kind in (torch.float, torch.bfloat16))
    copy = 2 * size.items * size.width if copy_pays(table, products, rows_read) else 0
    # The sums take their own bound, and shares of the table and the hidden gradient on which measured shapes agree.
    scratch = 0 if shared else SCRATCH_BYTES + 0.3 * size.items * size.width + 0.25 * rounded
    rate = "own_elements" if size.options["sharing"] == "none" else "shared_elements"
    work = {rate: size.tokens * size.negatives * size.width}
    return LossCost(copy + dhidden, (copy if shared else 0) + dhidden + max(scratch, rounded), work)
