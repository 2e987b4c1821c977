"""All arguments of a call of a sampled loss, in one container from the API to the kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.sampled.draws import Groups, as_counter, prepare
from cce_kernels.sampled.objectives import Objective, Terms, decode, encode
from cce_kernels.sampled.samplers import Sampler, Source


class SampledCall(NamedTuple):
    """The fields, in the types of an operator's schema; the properties group them."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN
    seed: Tensor  # int64 []
    step: Tensor  # int64 []
    size_tensor: Tensor | None  # int64 []: positions to draw from, where only the device knows their number
    id_table: Tensor | None  # int64 [positions]
    log_q: Tensor | None  # fp32 [V]
    log_rest: Tensor | None  # fp32 [M]
    row_offset: Tensor | None  # int64 []: the first token's row number, where only the device knows it
    own_counts: Tensor | None  # int32 [rows]: sharded only, how many of the ids of each row are in `id_table`
    num_items: int  # V, of which a sharded call has a part
    size: int  # positions to draw from, where there is no size_tensor
    alias: bool
    num_negatives: int
    group_tokens: int
    num_groups: int
    group_shift: int
    first_row: int
    row_stride: int
    ignore_index: int
    objective: str  # its name and its number: see `objectives.encode`
    t: float
    deterministic: bool  # no atomics
    with_dhidden: bool  # Triton only: forward computes dH
    with_lse: bool = False  # softmax only: forward also returns the log-sum-exp

    @property
    def source(self) -> Source:
        """What ids are drawn from."""
        size = self.size if self.size_tensor is None else self.size_tensor
        return Source(size, self.id_table, self.alias, self.log_q, self.log_rest)

    @property
    def groups(self) -> Groups:
        """Which tokens share negatives."""
        groups = Groups(self.group_tokens, self.num_groups, self.group_shift, self.first_row, self.row_stride)
        if self.row_offset is None:
            return groups
        tokens = self.group_tokens
        return groups._replace(shift=self.row_offset % tokens, first=self.row_offset // tokens)

    @property
    def terms(self) -> Terms:
        """What is summed."""
        return decode(self.objective, self.t).terms(self.num_negatives, self.num_items)


def sampled_call(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    sampler: Sampler, objective: Objective, seed: Tensor | int, step: Tensor | int, *,
    num_negatives: int, groups: Groups, ignore_index: int, deterministic: bool, row_offset: Tensor | None = None,
    num_items: int | None = None, with_lse: bool = False,
) -> SampledCall:  # fmt: skip
    """Prepare the sampler for a batch and flatten all arguments; `num_items` is V where weight has only some rows."""
    num_items = weight.shape[0] if num_items is None else num_items
    terms = objective.terms(num_negatives, num_items)
    counters = as_counter(seed, hidden.device), as_counter(step, hidden.device)
    source = prepare(sampler, targets.flatten(), ignore_index, num_items, *counters, correct=terms.softmax)
    size, size_tensor = (0, source.size) if isinstance(source.size, Tensor) else (source.size, None)
    shift, first = (0 if isinstance(x, Tensor) else x for x in (groups.shift, groups.first))
    wanted = any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    return SampledCall(
        hidden, weight, bias, targets, *counters, size_tensor, source.id_table, source.log_q, source.log_rest,
        row_offset, None, num_items, size, source.alias, num_negatives, groups.tokens, groups.number, shift,
        first, groups.stride, ignore_index, *encode(objective), deterministic, torch.is_grad_enabled() and wanted,
        with_lse,
    )  # fmt: skip
