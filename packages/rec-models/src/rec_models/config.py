"""The settings of a model, a loss and a training run, as strict frozen dataclasses. This module imports no torch.

`Backbone`, `Negatives`, `Losses` and `Train` are sections of params.yaml; `ModelSettings`, `LossSettings`,
`TrainingSettings` and `BatchSettings` are what training takes and every checkpoint keeps. A wrong value is a ValueError
(`pydantic.ValidationError`) that names the setting; so is a contradiction (`SettingsError`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from rec_models.encoders.registry import ENCODERS
from rec_models.encoders.settings import Backbone, MaxSeqLen, ModelName, ModelSettings
from rec_models.errors import SettingsError
from rec_models.fields import STRICT, Count, NotNegative
from rec_models.losses.registry import LOSSES
from rec_models.losses.settings import Gbce, Impl, Losses, LossName, LossSettings, Negatives, Sce, options_of

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]
Optimizer = Literal["adam", "adam_bf16", "adam_rowwise", "adam_lazy"]
TrackerName = Literal["none", "dvclive", "mlflow", "wandb"]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
MOST_SHARDS = 64
"""Processes that an item table can be spread over: `cce_kernels.shard.CLASSES`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatchSettings:
    """What training reads in a batch: beside the network, the loss and the loop, all that training again must know.

    `rec_models` makes no batches: whoever does states it, and it is kept in the checkpoint.
    """

    batch_size: Count
    """Sequences per batch and process."""
    window: Count | None = None
    """Items from one example of a history to the next; None: one example per history, its last items."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Loop:
    """The training loop, without what its batches hold."""

    max_epochs: Count = 20
    """Epochs at most."""
    patience: Count = 4
    """Epochs without a better validation NDCG@10 before training stops."""
    learning_rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1e-3
    """Of Adam, constant."""
    weight_decay: NotNegative = 0.0
    """L2 penalty that Adam adds to the gradient."""
    precision: Precision = "bf16-mixed"
    """On a GPU. A CPU trains in 32-true, where mixed precision measured slower; so does a GPU without bf16 (before
    Ampere) instead of bf16-mixed."""
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes of one device each. They train on parts of the batch and add up their gradients."""
    accumulate: Count = 1
    """Batches per optimizer step; the loss is the mean over the tokens of all of them."""
    optimizer: Optimizer = "adam"
    """Adam, and what it keeps of the item table; everything else has two fp32 moments per weight.

    ``adam``: two fp32 moments. ``adam_bf16``: two in bf16. ``adam_rowwise``: the first in bf16, the second as one
    number per item. ``adam_lazy``: as ``adam_rowwise``, but only items that the batch read, drew or predicted are
    updated, with what they missed since the last time: faster where these are few (sampled negatives).
    """
    table: Literal["auto", "replicated", "sharded"] = "replicated"
    """The item table, its gradient and its moments: whole on each device, or with its rows spread over them.

    ``sharded``: for losses of cce_kernels, and bf16-mixed or 32-true. ``auto`` shards
    a table that does not fit a GPU, and one of more than (devices + 2) items per target of a batch, whose exchange
    takes longer than that of tokens.
    """
    averaging: NotNegative = 0.0
    """Time constant, in epochs, of an exponential moving average of the weights; 0: none.

    Validation sees the average, and the best and the final model are averages. It takes 4 bytes a weight.
    """
    compile: bool = False
    """Compile the network between embeddings and loss with torch.compile; the first steps then take a minute.

    Pays on a GPU where `rec_models.encoders.fused` does not run the network, such as with ``norm=post``.
    """
    cuda_graphs: bool | Literal["auto"] = "auto"
    """On a GPU: record whole steps as CUDA graphs, batches filled up to a few sizes; a CPU trains without.

    For bf16-mixed without accumulation, with losses of cce_kernels: on one device ``auto`` records exactly then. Small
    batches gain most: their kernels are shorter than their launches.
    """


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Train(_Loop):
    """The training loop, its examples, and who follows it."""

    window: Count | None = None
    """Slide a window of ``max_seq_len`` over long histories, this many items per step. Null: the last window only."""
    tracker: TrackerName = "none"
    """An experiment tracker that gets the settings and the curves of the training; each needs its extra, such as
    ``cutrec[mlflow]``. It has no influence on the model."""
    init_from: str | None = None
    """A folder with a trained model, whose weights training starts from; items are matched by their ids. Null: random
    weights."""
    sequences: str | None = None
    """The address of the folder ``sequences`` of a split in parts, such as ``s3://bucket/split/sequences``. Training
    reads its histories instead of those at hand, whose items must be the same. Each process copies the parts that it
    trains on. Null: the histories at hand."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingSettings(_Loop):
    """The training loop."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto``: on the GPU if there is one."""
    seed: Seed = 42
    """Of the weights, of dropout and of the negatives."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """At most this much work is lost when the process is killed; more where writing a checkpoint takes over a second.
    Infinite: only ``checkpoint_steps`` counts."""
    checkpoint_steps: Count | None = None
    """Checkpoint after this many optimizer steps as well."""

    def __post_init__(self) -> None:
        if self.optimizer == "adam_lazy":
            self._require("weight_decay", 0, optimizer="adam_lazy")
        if self.table == "sharded":
            if self.devices > MOST_SHARDS:
                raise SettingsError("devices", self.devices, f"up to {MOST_SHARDS}", table="sharded")
            if self.precision == "16-mixed":  # each device would scale its rows by itself
                raise SettingsError("precision", self.precision, "bf16-mixed | 32-true", table="sharded")
        if self.cuda_graphs is True:
            self._require("accumulate", 1, cuda_graphs=True)
            self._require("precision", "bf16-mixed", cuda_graphs=True)

    def _require(self, name: str, allowed: object, **beside: object) -> None:
        if getattr(self, name) != allowed:
            raise SettingsError(name, getattr(self, name), str(allowed), **beside)

    def records_steps(self, loss: LossSettings) -> bool:
        """Whether a GPU records whole steps as CUDA graphs."""
        if self.cuda_graphs != "auto":
            return self.cuda_graphs
        single = self.devices == self.accumulate == 1 and self.precision == "bf16-mixed"
        return single and _never_waits(loss)

    def check_loss(self, loss: LossSettings) -> None:
        """Refuse what a loss cannot work with, by a `SettingsError`: CUDA graphs, lazy Adam, a sharded table."""
        beside: dict[str, object] = {"paper_faithful": True} if loss.paper_faithful else {"loss": loss.loss}
        if self.cuda_graphs is True and not _never_waits(loss):
            if loss.impl is not None and not loss.paper_faithful:
                beside = {"impl": loss.impl}
            raise SettingsError("cuda_graphs", True, "auto | False", **beside)
        spec = LOSSES[loss.loss]
        if self.optimizer == "adam_lazy" and not spec.sampled:  # every item has a gradient in every step
            allowed = " | ".join(name for name in OPTIMIZERS if name != "adam_lazy")
            raise SettingsError("optimizer", self.optimizer, allowed, **beside)
        if self.table == "sharded" and not can_be_sharded(loss):
            raise SettingsError("table", self.table, "auto | replicated", **beside)


def can_be_sharded(loss: LossSettings) -> bool:
    """Whether cce_kernels computes the loss: only there the item table can be spread over devices."""
    return LOSSES[loss.loss].fused and not loss.paper_faithful


def _never_waits(loss: LossSettings) -> bool:
    """Whether a step with this loss never asks the GPU for a number, so that it can be recorded."""
    return loss.impl is not None and loss.impl != "reference" and not loss.paper_faithful


# fmt: off
__all__ = [
    "ENCODERS", "LOSSES", "OPTIMIZERS", "Backbone", "BatchSettings", "Gbce", "Impl", "LossName", "LossSettings",
    "Losses", "MaxSeqLen", "ModelName", "ModelSettings", "Negatives", "Optimizer", "Precision", "Sce", "Seed",
    "TrackerName", "Train", "TrainingSettings", "options_of",
]
