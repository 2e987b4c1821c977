"""Batches for measuring steps: a warm-up with each size of batch twice, then the same batches, timed.

Recorded steps (`rec_models.training.cuda_graphs`) launch their kernels one by one for the first batch of a size, are
recorded for the second, and replayed from then on. An epoch has thousands of replays, so timed steps should be replays
only. The sizes of batches are computed here in the way training computes them, on the host.
"""

from collections.abc import Hashable, Iterator, Sequence

from rec_data.sequences.batches import Batch, TrainingBatches
from rec_models.training.cuda_graphs import prepare_filled, size_of


class WarmUpBatches:
    """Batches of the first epoch in the given order of their indices; a batch may occur several times."""

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
    """The size of each batch of the first epoch, by which recordings are distinguished."""
    return [size_of(prepare_filled(batch, batches.max_seq_len)) for batch in batches.epoch(0)]


def warm_up_order(sizes: Sequence[Hashable], fewest: int) -> list[int]:
    """Indices of a warm-up's batches, at least ``fewest``: the first one of each size twice, then all in turn."""
    first = {size: sizes.index(size) for size in sizes}
    order = [index for index in first.values() for _ in range(2)]
    return order + [index % len(sizes) for index in range(fewest - len(order))]
