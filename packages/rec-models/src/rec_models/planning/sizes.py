"""What is planned: the settings of a training step, and the sizes of its batches."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rec_models.config import ENCODERS, BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import SettingsError
from rec_models.losses import LOSSES, LossCost, LossSize
from rec_models.losses.paper import trains_padding
from rec_models.training.cuda_graphs import bucket_of


class Setup(NamedTuple):
    """The settings that decide what a training step does."""

    model: ModelSettings
    loss: LossSettings
    training: TrainingSettings
    plain: bool = False  # measured before there was `rec_models.encoders.fused`

    @property
    def recorded(self) -> bool:
        """Whether a GPU records whole steps as CUDA graphs."""
        return self.training.records_steps(self.loss)

    @property
    def fused(self) -> bool:
        """Whether the network runs in the kernels of `rec_models.encoders.fused`."""
        possible = self.model.fusible and not (self.plain or self.training.compile)
        return possible and self.training.precision != "32-true"

    @property
    def shards(self) -> int:
        """How many devices the rows of the item table are spread over."""
        return self.training.devices if self.training.table == "sharded" else 1


class Sizes(NamedTuple):
    """Sizes of a log and of the batches that training makes of it."""

    items: int  # V
    rows: int  # B, sequences of a batch
    tokens: float  # T, places of a mean batch without padding
    most_tokens: float  # T of the largest batch of an epoch, as expected
    targets_share: float  # M / T: the share of places that have a target
    mean_length: float  # of the histories that the network reads
    steps: int  # batches of an epoch

    def of_shard(self, shards: int) -> Sizes:
        """The same with the items of one of so many devices."""
        return self._replace(items=-(-self.items // shards))

    @classmethod
    def of(
        cls, model: ModelSettings, batch: BatchSettings, lengths: npt.NDArray[np.int64], *, items: int, examples: int
    ) -> Sizes:
        """The sizes of batches, from the lengths of their histories.

        The largest of n batches is expected sqrt(2 ln n) standard deviations above the mean batch: sums of many
        independent lengths are close to normal.

        The lengths [n] int64 are the places that the network reads of each training example, or of a fair sample of
        them; `items` is V, `examples` those of an epoch.
        """
        steps = math.ceil(examples / batch.batch_size)
        mean, deviation = float(lengths.mean()), float(lengths.std())
        rows = min(batch.batch_size, examples)
        most = rows * mean + math.sqrt(2 * math.log(max(steps, 2)) * rows) * deviation
        return cls(
            items=items,
            rows=rows,
            tokens=rows * mean,
            most_tokens=min(most, rows * float(lengths.max())),
            targets_share=model.mask_prob if ENCODERS[model.model].masked else 1.0,
            mean_length=mean,
            steps=steps,
        )


def filled(setup: Setup, tokens: float) -> float:
    """Places of a batch as the step computes it: recorded steps fill batches up to a few sizes."""
    return float(bucket_of(max(1, round(tokens)))) if setup.recorded else tokens


def loss_size(setup: Setup, sizes: Sizes, tokens: float) -> LossSize:
    """What the loss sees in a batch of so many places; `sizes` are those of a shard.

    Over a sharded table that is the tokens of all devices, with the negatives that are among its own rows.
    """
    loss, targets = setup.loss, tokens * sizes.targets_share
    if trains_padding(loss):
        targets = max(targets, sizes.rows * setup.model.max_seq_len)
    members = max(targets, 1.0) if loss.sharing == "batch" else loss.tile_tokens or 1
    return LossSize(
        items=sizes.items,
        width=setup.model.hidden,
        tokens=targets * setup.shards,
        negatives=-(-(loss.num_negatives or 0) // setup.shards),
        groups=targets * setup.shards / members,
        options=vars(loss),
        sharded=setup.shards > 1,
    )


def loss_cost(setup: Setup, size: LossSize) -> LossCost:
    """Bytes and work of the loss; a `SettingsError` if it states no cost."""
    cost = LOSSES[setup.loss.loss].load_cost(paper_faithful=setup.loss.paper_faithful)
    if cost is None:
        known = " | ".join(name for name, spec in LOSSES.items() if spec.cost)
        raise SettingsError("loss", setup.loss.loss, f"for predictions {known}")
    return cost(size)
