"""What a process computes of every token over its own rows, and how the process that has the token puts it together.

Process r leaves of the scores s_j of its rows j, the target left out,

    T_r = sum_j e^(s_j - b_r),    a_r = sum_j e^(s_j - b_r) w_j / T_r

and the score s_t and the row w_t of the target where it has them. a_r is a mean of rows, so it fits 16 bits whatever
the scores are. T never holds the target, so that 1 - p_t keeps its digits where the model is sure of it. Sums are in
the order of the processes: the same bits in every run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.shard import Shard

LOG2E = math.log2(math.e)
NOTHING = -1.0e30  # the base of no terms, below that of any term


class Partial(NamedTuple):
    """The results of tokens [..., M] over the rows of one process; scalars are fp32 or float64."""

    base: Tensor  # [..., M], b, in log2 units for the full loss; 0 for a pointwise objective
    total: Tensor  # [..., M], T; the sum of the losses of negatives for a pointwise objective
    left: Tensor  # [..., M], negatives that are left; 0 for the full loss
    target_score: Tensor  # [..., M], 0 where another process has the target
    mean: Tensor  # [..., M, D], a in hidden's dtype; the sum of slopes times rows for a pointwise objective
    target_row: Tensor  # [..., M, D], 0 where another process has the target


class Merged(NamedTuple):
    """What the process of a token makes of the partial results of all."""

    loss: Tensor  # [M]
    lse: Tensor  # [M], for the user: 0 where a token is ignored; empty for a sampled loss
    shift: Tensor  # [M], 2^(s - shift) or e^(s - shift) is the gradient of a score; infinite where there is none
    pull: Tensor  # [M], minus the gradient of the target's score
    dhidden: Tensor  # [M, D] in the dtype of sums, before the upstream gradient

    def scaled(self, factor: float) -> Merged:
        """With gradients of scores that were multiplied by a factor before they were merged."""
        return self._replace(pull=self.pull * factor, dhidden=self.dhidden * factor)


def exchange(shard: Shard, partial: Partial) -> Partial:
    """Send the results [P, M] of the tokens of each process there; returns those of the own tokens [P, M]."""
    *scalars, mean, target_row = partial
    numbers = shard.exchange(torch.stack(scalars, -1))
    rows = shard.exchange(torch.cat((mean, target_row), -1))
    return Partial(*numbers.unbind(-1), *rows.chunk(2, -1))


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Sum over the first dimension, in its order: weights [P, M] and vectors [P, M, D] to [M, D] in weights' dtype."""
    out = weights[0, :, None] * vectors[0]
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        out.addcmul_(weight[:, None], vector.to(out.dtype))
    return out
