"""Sums of the rows that share an id, in plain torch: gradients of weight and bias, dense or sparse.

`index_add_` adds with atomics on CUDA: the order of its sums differs from run to run. `sums_by_id` sorts rows by id (a
stable sort) and adds neighbors with the same id in pairs, then pairs of pairs, and so on: every round writes each row
at most once, in an order that is always the same.
"""

import torch
from torch import Tensor

from cce_kernels.reduction import sparse_rows


def sums_by_id(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the rows [R, D] of each of the ids int64 [R]: the ids that occur, ascending [U], and their sums [U, D].

    Synchronises once a round, of which there are log2 of the most rows of an id.
    """
    ids, order = torch.sort(ids, stable=True)
    rows = rows.index_select(0, order)
    places = torch.arange(ids.numel(), device=ids.device)
    begins = torch.cat((ids.new_ones(1), (ids[1:] != ids[:-1]).to(ids.dtype)))[: ids.numel()]
    rank = places - torch.where(begins > 0, places, 0).cummax(0).values if ids.numel() else places
    while True:
        is_second = rank % 2 == 1
        second = is_second.nonzero().squeeze(1)
        if second.numel() == 0:
            return ids, rows
        rows = rows.index_copy(0, second - 1, rows.index_select(0, second - 1) + rows.index_select(0, second))
        first = (~is_second).nonzero().squeeze(1)
        ids, rows, rank = ids[first], rows.index_select(0, first), rank[first] // 2


class RowSums:
    """Collects rows of the gradients of weight and bias, dense or sparse."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, deterministic: bool, sparse: bool
    ) -> None:
        self.weight, self.bias, self.dtype = weight, bias, dtype
        self.deterministic, self.sparse = deterministic, sparse
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        if not sparse:
            self.grad_weight = torch.zeros_like(weight, dtype=dtype)
            self.grad_bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)

    def add(self, ids: Tensor, rows: Tensor, scalars: Tensor, keep: Tensor | None = None) -> None:
        """Add `rows` [C, N, D], and to the bias the sums over T of `scalars` [C, T, N], at `ids` [C, N].

        Where `keep` [C, N] is False the rows are zero, and a sparse gradient leaves them out.
        """
        ids, rows = ids.flatten(), rows.flatten(0, 1)
        scalars = scalars.sum(1).flatten() if self.bias is not None else rows.new_zeros(ids.shape)
        if self.sparse:
            if keep is not None:
                ids, rows, scalars = ids[keep.flatten()], rows[keep.flatten()], scalars[keep.flatten()]
            self.rows.append(self.merged(ids, rows, scalars))
            return
        if self.deterministic:  # one row per id is left: no order of the sums below matters
            ids, rows, scalars = self.merged(ids, rows, scalars)
        self.grad_weight.index_add_(0, ids, rows)
        if self.grad_bias is not None:
            self.grad_bias.index_add_(0, ids, scalars)

    def merged(self, ids: Tensor, rows: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ids that occur, ascending [U], and the sums of the rows [R, D] and scalars [R] of each."""
        if self.deterministic:
            unique, sums = sums_by_id(ids, torch.cat((rows, scalars[:, None]), 1))
            return unique, sums[:, :-1], sums[:, -1]
        unique, inverse = torch.unique(ids, return_inverse=True)
        merged = rows.new_zeros(unique.numel(), rows.shape[1]).index_add_(0, inverse, rows)
        return unique, merged, scalars.new_zeros(unique.numel()).index_add_(0, inverse, scalars)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Gradients in the dtypes of weight and bias."""
        if not self.sparse:
            d_bias = None if self.bias is None or self.grad_bias is None else self.grad_bias.to(self.bias.dtype)
            return self.grad_weight.to(self.weight.dtype), d_bias
        nothing = self.weight.new_zeros(0, self.weight.shape[1], dtype=self.dtype)
        collected = [(nothing.new_zeros(0, dtype=torch.int64), nothing, nothing.new_zeros(0)), *self.rows]
        ids, rows, scalars = self.merged(*(torch.cat(column) for column in zip(*collected, strict=True)))
        d_bias = None if self.bias is None else sparse_rows(ids, scalars, self.bias)
        return sparse_rows(ids, rows, self.weight), d_bias
