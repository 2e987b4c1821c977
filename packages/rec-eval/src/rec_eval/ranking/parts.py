"""A catalogue whose rows are spread over the processes of a group, and what they add up or merge of their rankings.

An item's score is computed by the process that has its row. Lists are merged by sort keys that hold the ids of the
whole catalogue: the order is that of one process, by score and then by id.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from rec_eval.ranking.scores import Catalogue
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import EMPTY, TopK, decode_keys, encode_keys
from rec_eval.ranking.top_k import top_k


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of a catalogue that one process has."""

    ids: Tensor
    """``[n]`` int64, the ids of the rows, ascending, n at least 1; on the device of the vectors."""
    num_items: int
    """V, of the whole catalogue."""
    most_rows: int
    """The most rows that a process has."""
    group: dist.ProcessGroup | None = None
    """Its processes; None is the default group."""

    def rows_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The first row of an id that is not lower, n if there is none, and whether it is that item's, like ``ids``."""
        rows = torch.searchsorted(self.ids, ids)
        return rows, self.ids[rows.clamp(max=len(self.ids) - 1)] == ids

    def seen(self, seen: SeenItems) -> SeenItems:
        """The seen items that this process has, as rows."""
        rows, is_here = self.rows_of(seen.items.to(self.ids.device).long())
        before = torch.cat((is_here.new_zeros(1, dtype=torch.int64), is_here.cumsum(0))).cpu()
        return SeenItems(before[seen.offsets], rows[is_here], len(seen.offsets) - 1, len(self.ids))

    def sum(self, values: Tensor) -> Tensor:
        """Add up the values of all processes, in place."""
        dist.all_reduce(values, group=self.group)
        return values


def top_k_of_parts(
    queries: Tensor,
    items: Tensor | Catalogue,
    k: int,
    part: Part,
    *,
    seen_offsets: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> TopK:
    """`top_k` of a catalogue whose rows are spread; all processes call this with the same users, and get all lists.

    ``items`` are the rows of ``part``, seen items are ids of the whole catalogue. Errors are those of ``top_k``.
    """
    here = part.seen(SeenItems(seen_offsets, seen_items, queries.shape[0], part.num_items))
    found = top_k(queries, items, k, seen_offsets=here.offsets, seen_items=here.items)
    ids = part.ids[found.ids.clamp(min=0)]
    keys = torch.where(found.ids < 0, EMPTY, encode_keys(found.scores, ids))
    everyone = keys.new_empty(dist.get_world_size(part.group), *keys.shape)
    dist.all_gather_into_tensor(everyone.view(-1), keys.view(-1), group=part.group)
    return decode_keys(everyone.transpose(0, 1).flatten(1).topk(k, dim=1).values)
