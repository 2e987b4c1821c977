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

from typing import Any

from torch import Tensor

from cce_kernels import BCE, GBCE, Softmax, linear_cross_entropy, sampled_linear_cross_entropy
from rec_models.losses.base import Loss, LossContext
from rec_models.losses.sampling import sampler_of
from rec_models.losses.settings import LossSettings


def cce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    impl = settings.impl
    assert impl is not None

    def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        loss: Tensor = linear_cross_entropy(hidden, weight, targets, impl=impl)
        return loss

    return cut_cross_entropy


def cce_neg(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    return _sampled(settings, item_counts, Softmax())


def bce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """BCE and BCE+; see `rec_models.losses.base.Builder`."""
    return _sampled(settings, item_counts, BCE())


def gbce(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.base.Builder`."""
    assert settings.gbce_t is not None
    return _sampled(settings, item_counts, GBCE(settings.gbce_t))


def _sampled(settings: LossSettings, item_counts: Tensor | None, objective: Any) -> Loss:
    sampler = sampler_of(settings, item_counts).for_kernels()
    num_negatives, sharing, impl = settings.num_negatives, settings.sharing, settings.impl
    assert num_negatives is not None
    assert sharing is not None
    assert impl is not None
    tile_tokens = settings.tile_tokens or 64  # has no effect unless sharing is tile

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
