"""Sums of the rows that share an id, in an order that is always the same, in plain torch.

`index_add_` adds with atomics on CUDA: the order of its sums differs from run to run. Here rows are sorted by id (a
stable sort), and neighbours with the same id are added in pairs, pairs of pairs, and so on: every round writes each row
at most once.
"""

import torch
from torch import Tensor


def sums_by_id(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the rows of each id; synchronises once a round, of which there are log2 of the most rows of an id.

    Args:
        ids: int64 [R].
        rows: [R, D].

    Returns:
        The ids that occur, ascending [U], and their sums [U, D].
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
