"""A catalogue whose rows are spread over the processes of a group, and what they add up of their rankings.

An item's score is computed by the process that has its row.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from rec_eval.ranking.seen import SeenItems


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
