"""The items that each user has seen, in CSR form, and their parts in one tile."""

import torch
from torch import Tensor

from rec_eval.checks import check_ids, check_offsets


class SeenItems:
    """The seen items of all users, checked once.

    Args:
        offsets: ``[U + 1]`` integers: user ``u`` has seen ``items[offsets[u]:offsets[u + 1]]``.
        items: ``[nnz]`` integers in ``[0, V)``, in any order; repetitions are allowed.
        num_users: U.
        num_items: V.

    Raises:
        ValueError: only one of the two is given, the offsets do not fit, or an id is outside the catalogue.
    """

    def __init__(self, offsets: Tensor | None, items: Tensor | None, num_users: int, num_items: int) -> None:
        if (offsets is None) != (items is None):
            raise ValueError("seen_offsets and seen_items must be given together, but one of them is None")
        if offsets is None or items is None:
            self.offsets, self.items = torch.zeros(num_users + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
            return
        if offsets.shape != (num_users + 1,) or offsets.is_floating_point():
            raise ValueError(
                f"seen_offsets must hold users + 1 = {num_users + 1} integers, "
                f"got {list(offsets.shape)} {offsets.dtype}"
            )
        if items.ndim != 1 or items.is_floating_point():
            raise ValueError(f"seen_items must be one row of integers, got {list(items.shape)} {items.dtype}")
        self.offsets, self.items = offsets.cpu().long(), items
        check_offsets("seen_offsets", self.offsets, items.numel())
        check_ids("seen_items", items, num_items)

    def rows(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the (row, item) pairs of users ``start`` to ``end``: two ``[n]`` int64; rows count from ``start``."""
        offsets = self.offsets[start : end + 1]
        items = self.items[int(offsets[0]) : int(offsets[-1])].to(device).long()
        rows = torch.repeat_interleave(offsets.diff().to(device), output_size=items.numel())
        return rows, items

    def tiles(self, start: int, end: int, bounds: list[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Divide the pairs of users ``start`` to ``end`` by item tile.

        ``bounds`` are the first item of each tile, and V at the end. Returns (rows, columns) of each tile: ``[n]``
        int64, columns counted from the tile's first item.
        """
        rows, items = self.rows(start, end, device)
        if len(bounds) == 2:  # one tile has all of them
            return [(rows, items - bounds[0])]
        items, order = items.sort()
        rows = rows[order]
        cuts = torch.searchsorted(items, torch.tensor(bounds, device=device)).tolist()
        return [
            (rows[low:high], items[low:high] - first)
            for first, low, high in zip(bounds, cuts[:-1], cuts[1:], strict=False)
        ]
