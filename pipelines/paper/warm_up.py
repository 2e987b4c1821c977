"""Batches for measuring steps: a warm-up that has seen each size of batch twice, then the same batches, timed.

With CUDA graphs (`rec_models.training.cuda_graphs`) a step is launched kernel by kernel when a size of batch comes for
the first time, recorded at the second, and replayed from then on. An epoch has thousands of replays, so the timed steps
should be replays only. Which batches have the same size is found out here as training finds it out, on the host.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rec_data.sequences.batches import Batch, TrainingBatches


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
        source: Iterator[Batch] = iter(())
        following = None
        for index in self._order[start:]:
            if index != following:
                source = self._batches.epoch(0, start=index)
            following = index + 1
            yield next(source)


def recorded_sizes(batches: TrainingBatches) -> list[tuple[int, ...]]:
    """The sizes that the batches have their CUDA graphs by.

    Args:
        batches: their first epoch.
    """
    from rec_models.training.cuda_graphs import prepare_filled, size_of

    return [size_of(prepare_filled(batch, batches.max_seq_len)) for batch in batches.epoch(0)]


def warm_up_order(sizes: Sequence[Hashable], fewest: int) -> list[int]:
    """Batches of a warm-up: two of each size, the first ones of a size; then all in turn.

    Args:
        sizes: of each batch.
        fewest: batches of the warm-up at least.
    """
    first = {size: sizes.index(size) for size in sizes}
    order = [index for index in first.values() for _ in range(2)]
    return order + [index % len(sizes) for index in range(fewest - len(order))]
