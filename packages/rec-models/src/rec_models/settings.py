"""What a model, a loss and a training run are made of, as frozen dataclasses. This module imports no torch.

They are stored in every checkpoint. A wrong value or a contradiction is a `SettingsError` of one line that names the
setting, says what was found and what is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rec_models.checks import SettingsError, flag, number, one_of, require, whole_from
from rec_models.loss_settings import FULL_LOSSES, LOSSES, SAMPLED_LOSSES, LossName, LossSettings, used_by

Model = Literal["sasrec", "bert4rec"]
Precision = Literal["bf16-mixed", "16-mixed", "32-true"]
Activation = Literal["gelu", "relu"]
Norm = Literal["pre", "post"]
Optimizer = Literal["adam", "adam_bf16", "adam_rowwise", "adam_lazy"]

MODELS: tuple[str, ...] = get_args(Model)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network that turns a history into a vector."""

    model: Model = "sasrec"
    """``sasrec`` looks back only, ``bert4rec`` looks both ways at a history with holes."""
    blocks: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads of a block."""
    hidden: int = 64
    """Width of the network and of the item table."""
    dropout: float = 0.1
    """Share of activations that training sets to zero: of the embeddings, and of what each half of a block adds."""
    attention_dropout: float = 0.0
    """Share of attention weights that training sets to zero, as SASRec and BERT4Rec were published. Kernels for packed
    histories have no such dropout: above 0, attention (alone) works on padded ones."""
    scale_embeddings: bool = False
    """Multiply item vectors by sqrt(hidden) before positions are added, as SASRec's published code does; the scores'
    side of the table stays as it is."""
    activation: Activation = "gelu"
    """Of the feed-forward nets: ``gelu`` as BERT4Rec was published, ``relu`` as SASRec was."""
    norm: Norm = "pre"
    """Where layers are normalised. ``pre``: before each half of a block, as in SASRec's paper, and once at the end.
    ``post``: the embeddings, and after each half of a block, as BERT4Rec was published."""
    max_seq_len: int = 64
    """Longest history; of a longer one the last items are read."""
    mask_prob: float = 0.15
    """BERT4Rec: the share of a training sequence that its batches mask. SASRec's batches mask nothing."""

    def __post_init__(self) -> None:
        one_of("model", self.model, MODELS)
        for name in ("blocks", "heads", "hidden"):
            whole_from(name, getattr(self, name), 1)
        whole_from("max_seq_len", self.max_seq_len, 2)
        for name in ("dropout", "attention_dropout"):
            number(name, getattr(self, name), lambda share: 0 <= share < 1, "a number from 0 to below 1")
        flag("scale_embeddings", self.scale_embeddings)
        one_of("activation", self.activation, get_args(Activation))
        one_of("norm", self.norm, get_args(Norm))
        number("mask_prob", self.mask_prob, lambda share: 0 < share < 1, "a number between 0 and 1")
        require("hidden", self.hidden, self.hidden % self.heads == 0, f"a multiple of heads = {self.heads}")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What training reads in a batch: beside the network, the loss and the loop, all that training again must know.

    `rec_models` makes no batches: whoever does states it, and it is kept in the checkpoint.
    """

    batch_size: int
    """Sequences a batch and process."""
    window: int | None = None
    """Items from one example of a history to the next; None: one example a history, its last items."""

    def __post_init__(self) -> None:
        whole_from("batch_size", self.batch_size, 1)
        if self.window is not None:
            whole_from("window", self.window, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The training loop."""

    max_epochs: int = 20
    """Epochs at most."""
    patience: int = 4
    """Epochs without a better validation ndcg@10 before training stops."""
    learning_rate: float = 1e-3
    """Of Adam, constant."""
    weight_decay: float = 0.0
    """L2 penalty that Adam adds to the gradient."""
    optimizer: Optimizer = "adam"
    """Adam, and what it keeps of the item table; everything else has two fp32 moments a weight.

    ``adam``: two fp32 moments. ``adam_bf16``: two in bf16. ``adam_rowwise``: the first in bf16, the second as one
    number an item. ``adam_lazy``: two in fp32, and only items that the batch read, drew or predicted are updated, with
    what they missed since the last time; the table has no dense gradient (fused losses with sampled negatives, on one
    device).
    """
    precision: Precision = "bf16-mixed"
    """On a GPU. A CPU trains in 32-true, where mixed precision measured slower."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto``: on the GPU if there is one."""
    devices: int = 1
    """Processes of one device each, through Lightning's DDP."""
    compile: bool = False
    """Compile the network between embeddings and loss with torch.compile; the first steps then take a minute."""
    cuda_graphs: bool | Literal["auto"] = "auto"
    """On a GPU: record whole steps as CUDA graphs, batches filled up to a few sizes; a CPU trains without.

    For bf16-mixed on one device, without accumulation, with losses of cce_kernels and any optimizer but ``adam_lazy``:
    ``auto`` records exactly then. Small batches gain most: their kernels are shorter than their launches.
    """
    accumulate: int = 1
    """Batches a step of the optimiser; the loss is the mean over the tokens of all of them."""
    seed: int = 42
    """Of the weights, of dropout and of the negatives."""
    checkpoint_seconds: float = 60.0
    """At most so much work is lost when the process is killed; more where writing a checkpoint takes over a second."""
    checkpoint_steps: int | None = None
    """Checkpoint every so many optimiser steps as well."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "devices", "accumulate"):
            whole_from(name, getattr(self, name), 1)
        if self.checkpoint_steps is not None:
            whole_from("checkpoint_steps", self.checkpoint_steps, 1)
        number("learning_rate", self.learning_rate, lambda rate: 0 < rate < math.inf, "a finite number above 0")
        number("weight_decay", self.weight_decay, lambda decay: 0 <= decay < math.inf, "a finite number from 0")
        one_of("precision", self.precision, get_args(Precision))
        one_of("accelerator", self.accelerator, ("auto", "cpu", "cuda"))
        seeds = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**32
        require("seed", self.seed, seeds, "a whole number from 0 to 4294967295")
        number("checkpoint_seconds", self.checkpoint_seconds, lambda seconds: seconds > 0, "a number above 0")
        flag("compile", self.compile)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        known = isinstance(self.cuda_graphs, bool) or self.cuda_graphs == "auto"
        require("cuda_graphs", self.cuda_graphs, known, "True | False | auto")
        self._check_lazy()
        self._check_graphs()

    def _check_lazy(self) -> None:
        if self.optimizer == "adam_lazy":
            require("devices", self.devices, self.devices == 1, "1 with optimizer=adam_lazy")
            require("weight_decay", self.weight_decay, self.weight_decay == 0, "0 with optimizer=adam_lazy")

    def _check_graphs(self) -> None:
        if self.cuda_graphs is True:
            for name in ("devices", "accumulate"):
                require(name, getattr(self, name), getattr(self, name) == 1, "1 with cuda_graphs=True")
            require("precision", self.precision, self.precision == "bf16-mixed", "bf16-mixed with cuda_graphs=True")
            allowed = "another one with cuda_graphs=True: how many items a batch touches is known on the device only"
            require("optimizer", self.optimizer, self.optimizer != "adam_lazy", allowed)

    def records_steps(self, loss: LossSettings) -> bool:
        """Whether a GPU records whole steps as CUDA graphs."""
        if self.cuda_graphs != "auto":
            return self.cuda_graphs
        single = self.devices == self.accumulate == 1 and self.precision == "bf16-mixed"
        return single and self.optimizer != "adam_lazy" and _never_waits(loss)

    def check_loss(self, loss: LossSettings) -> None:
        """Refuse what contradicts the loss.

        Raises:
            SettingsError: CUDA graphs or lazy Adam with a loss that they cannot work with.
        """
        if self.cuda_graphs is True:
            beside = f"loss={loss.loss}" if loss.impl is None else f"impl={loss.impl}"
            beside = "paper_faithful=True" if loss.paper_faithful else beside
            require("cuda_graphs", self.cuda_graphs, _never_waits(loss), "auto | False", beside=beside)
        if self.optimizer == "adam_lazy":
            lazy = loss.impl is not None and not loss.paper_faithful and loss.loss in SAMPLED_LOSSES
            beside = "paper_faithful=True" if loss.paper_faithful else f"loss={loss.loss}"
            allowed = " | ".join(name for name in OPTIMIZERS if name != "adam_lazy")
            require("optimizer", self.optimizer, lazy, allowed, beside=beside)


def _never_waits(loss: LossSettings) -> bool:
    """Whether a step with this loss never asks the GPU for a number, so that it can be recorded."""
    return loss.impl is not None and loss.impl != "reference" and not loss.paper_faithful


__all__ = [
    "FULL_LOSSES",
    "LOSSES",
    "MODELS",
    "OPTIMIZERS",
    "SAMPLED_LOSSES",
    "Activation",
    "BatchSettings",
    "LossName",
    "LossSettings",
    "Model",
    "ModelSettings",
    "Norm",
    "Optimizer",
    "Precision",
    "SettingsError",
    "TrainingSettings",
    "used_by",
]
