"""Training and validation histories shaped like the split of a published log, made in seconds.

A full synthetic log (`rec_data.sources.synthetic`) has up to 243 million rows, and its split takes minutes. Memory and
time of a training step only depend on the lengths of its histories and on the catalogue. So the split is simulated on
a sample of the synthetic log's users, and only as many histories are made as steps are timed:

- the catalogue and the popularity of its items are the full log's own;
- lengths come from the temporal split of a sample of its users;
- the sizes of the full split (training users, validation users) are the sample's shares of the published users.

numpy and torch only.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch

from cutrec.config_point import Config
from cutrec.errors import ConfigError
from rec_data.config import Split
from rec_data.sequences.store import SequenceStore
from rec_data.sources import synthetic

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

_SAMPLE_ROWS = 2_000_000
_POOL = 4_000_000


@dataclass(frozen=True)
class SyntheticSplit:
    """The temporal split of a synthetic log."""

    num_items: int
    """V. A real split has a few items less, those that training never sees."""
    train_users: int
    """Users of the full log with a training example."""
    validation_users: int
    """Users of the full log that validation ranks for."""
    lengths: Int64s
    """[n] int64, items before t* of a sample of the users that have at least two."""
    shape: synthetic.LogShape
    """Of the full log."""

    @cached_property
    def item_counts(self) -> Int64s:
        """[V] int64, interactions of each item in the full log."""
        return synthetic.item_counts(self.shape)

    @cached_property
    def pool(self) -> Int32s:
        """Item ids drawn by their popularity."""
        edges = np.cumsum(self.item_counts)
        places = np.random.default_rng(0).integers(edges[-1], size=min(_POOL, 64 * self.shape.interactions))
        return np.searchsorted(edges, places, side="right").astype(np.int32)

    def train_store(self, users: int, span: int, seed: int) -> SequenceStore:
        """Histories to train on, none longer than `span`; the same seed gives the same histories."""
        return self._store(users, span, seed, with_targets=False)

    def validation_store(self, users: int, span: int, seed: int) -> SequenceStore:
        """Histories to rank for and their targets; arguments as of `train_store`."""
        return self._store(users, span, seed, with_targets=True)

    def _store(self, users: int, span: int, seed: int, *, with_targets: bool) -> SequenceStore:
        rng = np.random.default_rng([seed, users, span, with_targets])
        lengths = np.minimum(rng.choice(self.lengths, users) - with_targets, span)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        start = int(rng.integers(len(self.pool)))
        items = np.resize(np.roll(self.pool, -start), int(offsets[-1]))
        targets = torch.from_numpy(rng.choice(self.pool, users)) if with_targets else None
        return SequenceStore(
            torch.from_numpy(items), torch.from_numpy(offsets), torch.arange(users, dtype=torch.int32), targets
        )


def synthetic_split(point: Config) -> SyntheticSplit:
    """The split of the synthetic log that the point names.

    Raises:
        ConfigError: the data set is not a synthetic one, or the split is not temporal.
        DataError: no synthetic log has this name.
    """
    if not point.dataset.startswith("twin:"):
        raise ConfigError(f"dataset: found {point.dataset!r}, allowed: a twin, as in twin:beauty")
    if point.split.strategy != "temporal":
        raise ConfigError(f"split.strategy: found {point.split.strategy!r}, allowed for a twin: temporal")
    for key, usual in (("validation", "users"), ("test_from", None), ("test_until", None)):
        if (found := getattr(point.split, key)) != usual:
            allowed = "null" if usual is None else usual
            raise ConfigError(f"split.{key}: found {found!r}, allowed for the prediction of a twin: {allowed}")
    return split_of(point.dataset.removeprefix("twin:"), point.split)


@lru_cache
def split_of(spec: str, split: Split) -> SyntheticSplit:
    """The temporal split of a synthetic log, whose name and scale are written as behind ``twin:`` in ``dataset``.

    Raises:
        DataError: no synthetic log has this name.
    """
    _, shape = synthetic.parse(spec)
    sample = shape.scaled(min(1.0, _SAMPLE_ROWS / shape.interactions))
    parts = [(users, times) for users, _, times in synthetic.chunks(sample, seed=0)]
    users, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    place = int(len(times) * (1 - split.test_fraction))
    cut = np.partition(times, place)[place]
    past = np.bincount(users[times < cut], minlength=sample.users)  # [users of the sample]
    lengths = past[past >= 2]
    usable = shape.users * len(lengths) / sample.users
    return SyntheticSplit(
        num_items=shape.items,
        train_users=max(1, round(usable * (1 - split.validation_users))),
        validation_users=max(1, round(usable * split.validation_users)),
        lengths=lengths,
        shape=shape,
    )
