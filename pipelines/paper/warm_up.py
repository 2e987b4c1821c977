"""Batches for measuring steps: a warm-up that has seen each size of batch twice, then the same batches, timed.

Recorded steps (`rec_models.training.cuda_graphs`) are launched kernel by kernel when a size of batch comes for the
first time,
recorded at the second, and replayed from then on. An epoch has thousands of replays; some timed steps should have
nothing else. Which batches have one size is found out here as training finds it out, on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rec_data.sequences.batches import Batch, PackedBatch, TrainingBatches

_Entry = TypeVar("_Entry")


class RehearsedBatches:
    """A few batches, given in a chosen order.

    Args:
        batches: their first epoch holds them.
        order: which of them, from 0; each may come as often as it likes.
    """

    def __init__(self, batches: TrainingBatches, order: Sequence[int]) -> None:
        self._batches = batches
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `rec_models.training.prefetch.Batches`."""
        return self._in_order(self._batches.epoch, start)

    def packed_epoch(self, epoch: int, start: int = 0) -> Iterator[PackedBatch]:
        """See `rec_models.training.prefetch.PackedBatches`."""
        return self._in_order(self._batches.packed_epoch, start)

    def _in_order(self, read: Callable[..., Iterator[_Entry]], start: int) -> Iterator[_Entry]:
        source: Iterator[_Entry] = iter(())
        following = None
        for index in self._order[start:]:
            if index != following:
                source = iter(read(0, start=index))
            following = index + 1
            yield next(source)


def recorded_sizes(batches: TrainingBatches) -> list[tuple[int, ...]]:
    """What recordings of the batches are told apart by.

    Args:
        batches: their first epoch.
    """
    from rec_models.training.cuda_graphs import prepare_filled

    filled = (prepare_filled(batch, batches.max_seq_len) for batch in batches.packed_epoch(0))
    return [(step.layout.rows, *(tensor.numel() for tensor in step.tensors())) for step in filled]


def warm_up_order(sizes: Sequence[Hashable], fewest: int) -> list[int]:
    """Batches of a warm-up: two of each size, the first ones of a size; then all in turn.

    Args:
        sizes: of each batch.
        fewest: batches of the warm-up at least.
    """
    first = {size: sizes.index(size) for size in sizes}
    order = [index for index in first.values() for _ in range(2)]
    return order + [index % len(sizes) for index in range(fewest - len(order))]
