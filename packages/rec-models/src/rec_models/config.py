"""What a model, a loss and a training run are made of, as frozen dataclasses. This module imports no torch.

They are stored in every checkpoint. A wrong value or a contradiction is a `SettingsError` of one line that names the
setting, says what was found and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args


# How settings refuse a value: one line that names the setting, what was found and what is allowed.
class SettingsError(ValueError):
    """A setting is out of range, or contradicts another one."""


def require(name: str, found: object, holds: bool, allowed: str, *, beside: str = "") -> None:
    """Refuse a value, unless it holds.

    Args:
        name: of the setting.
        found: its value.
        holds: whether the value is one of those allowed.
        allowed: what is allowed, in words.
        beside: another setting that it contradicts, as ``name=value``.

    Raises:
        SettingsError: it does not hold.
    """
    if not holds:
        place = f" with {beside}" if beside else ""
        raise SettingsError(f"{name}: found {found!r}{place}, allowed: {allowed}")


def whole_from(name: str, found: object, least: int) -> None:
    """Refuse what is not a whole number of at least `least` with a `SettingsError` that names the setting."""
    holds = isinstance(found, int) and not isinstance(found, bool) and found >= least
    require(name, found, holds, f"a whole number from {least}")


def one_of(name: str, found: object, allowed: tuple[str, ...]) -> None:
    """Refuse what is not among the allowed words with a `SettingsError` that names the setting."""
    require(name, found, found in allowed, " | ".join(allowed))


def number(name: str, found: object, holds: Callable[[float], bool], allowed: str) -> None:
    """Refuse what is no number, or one of which `holds` is not true, with a `SettingsError` that names the setting."""
    require(name, found, isinstance(found, int | float) and not isinstance(found, bool) and holds(found), allowed)


def flag(name: str, found: object) -> None:
    """Refuse what is neither True nor False with a `SettingsError` that names the setting."""
    require(name, found, isinstance(found, bool), "True or False")


# What a loss is made of; part of `rec_models.config`. This module imports no torch.
LossName = Literal["ce", "ce_neg", "cce", "cce_neg", "bce", "bce_neg", "gbce", "sce"]

FULL_LOSSES: tuple[str, ...] = ("ce", "cce")
SAMPLED_LOSSES: tuple[str, ...] = ("ce_neg", "cce_neg", "bce", "bce_neg", "gbce")
LOSSES: tuple[str, ...] = get_args(LossName)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss and everything it depends on. What a loss has no use for stays None; giving it is refused.

    `LossSettings.pick` takes all settings and keeps those that the loss uses: the way in for sweeps over losses.
    """

    loss: LossName = "cce_neg"
    """Which loss; see the files of `rec_models.losses`."""
    num_negatives: int | None = None
    """Negatives a token. Needed by ``ce_neg``, ``cce_neg``, ``bce_neg`` and ``gbce``; ``bce`` takes 1 (or None)."""
    sampling: Literal["uniform", "popularity", "in_batch"] | None = None
    """The distribution that negatives come from; None is uniform."""
    alpha: float | None = None
    """Popularity sampling: q is proportional to ``count ** alpha``; None is 1."""
    logq: bool | None = None
    """Popularity or in-batch sampling under a softmax: correct scores by log q; None is True (False if faithful)."""
    sharing: Literal["none", "tile", "batch"] | None = None
    """Who shares one set of negatives: nobody, ``tile_tokens`` consecutive tokens, or the batch; None is none."""
    tile_tokens: int | None = None
    """Tokens that share a set under ``sharing="tile"``; None is 64."""
    gbce_t: float | None = None
    """gBCE: calibration from 0 (plain BCE) to 1 (fully calibrated); None is 0.75."""
    sce_buckets: int | None = None
    """SCE: random bucket centres; None is 443."""
    sce_bucket_size_x: int | None = None
    """SCE: tokens a bucket; None is 443."""
    sce_bucket_size_y: int | None = None
    """SCE: items a bucket; None is 512."""
    sce_mix_x: bool | None = None
    """SCE: centres are random mixtures of the batch's tokens, not plain noise; None is True."""
    impl: Literal["auto", "triton", "reference"] | None = None
    """Losses of cce_kernels: which implementation; None is auto, by device."""
    paper_faithful: bool = False
    """Repeat the known defects of the paper's own code, to compare with its tables."""

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        used = used_by(self.loss)
        for name in _LOSS_OPTIONS:
            found = getattr(self, name)
            if found is not None and name not in used:
                raise SettingsError(
                    f"{name}: found {found!r}, allowed: None, because loss={self.loss} has no use for it"
                )
        flag("paper_faithful", self.paper_faithful)
        for name in ("logq", "sce_mix_x"):
            if getattr(self, name) is not None:
                flag(name, getattr(self, name))
        self._check_negatives()
        self._fill_defaults(used)
        for name in ("sce_buckets", "sce_bucket_size_x", "sce_bucket_size_y", "tile_tokens"):
            if getattr(self, name) is not None:
                whole_from(name, getattr(self, name), 1)
        self._check_sampling()
        if self.gbce_t is not None:
            number("gbce_t", self.gbce_t, lambda share: 0 <= share <= 1, "a number from 0 to 1")
        if self.impl is not None:
            one_of("impl", self.impl, ("auto", "triton", "reference"))

    def _check_negatives(self) -> None:
        if self.loss == "bce":
            require("num_negatives", self.num_negatives, self.num_negatives in (None, 1), "1 or None with loss=bce")
            object.__setattr__(self, "num_negatives", 1)
        elif self.loss in SAMPLED_LOSSES:
            whole_from("num_negatives", self.num_negatives, 1)

    def _fill_defaults(self, used: frozenset[str]) -> None:
        for name, value in _LOSS_DEFAULTS.items():
            if name in used and getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.sharing == "tile" and self.tile_tokens is None:
            object.__setattr__(self, "tile_tokens", 64)
        if self.sampling == "popularity" and self.alpha is None:
            object.__setattr__(self, "alpha", 1.0)
        if "logq" in used and self.sampling in ("popularity", "in_batch") and self.logq is None:
            object.__setattr__(self, "logq", not self.paper_faithful)

    def _check_sampling(self) -> None:
        if self.sampling is None or self.sharing is None:
            return
        one_of("sampling", self.sampling, ("uniform", "popularity", "in_batch"))
        one_of("sharing", self.sharing, ("none", "tile", "batch"))
        require(
            "tile_tokens",
            self.tile_tokens,
            self.tile_tokens is None or self.sharing == "tile",
            "None unless sharing=tile",
        )
        require("tile_tokens", self.tile_tokens, (self.tile_tokens or 1) <= 1024, "at most 1024")
        require(
            "alpha", self.alpha, self.alpha is None or self.sampling == "popularity", "None unless sampling=popularity"
        )
        if self.alpha is not None:
            number("alpha", self.alpha, lambda power: 0 <= power < math.inf, "a number from 0")
        require(
            "logq",
            self.logq,
            self.logq is None or self.sampling != "uniform",
            "None with sampling=uniform: q is constant",
        )
        if self.paper_faithful:
            require("logq", self.logq, not self.logq, "False with paper_faithful: the paper does not correct by log q")
            require(
                "sharing", self.sharing, self.sharing == "none", "none with paper_faithful: the paper shares nothing"
            )

    def check_catalogue(self, num_items: int, num_counts: int | None) -> None:
        """Refuse what contradicts the catalogue, before anything is trained.

        Args:
            num_items: V.
            num_counts: how many item counts there are; None: no counts.

        Raises:
            SettingsError: gBCE with more negatives than other items, or popularity sampling without V counts.
        """
        if self.loss == "gbce" and self.num_negatives is not None:
            allowed = f"at most {num_items - 1} with loss=gbce and {num_items} items"
            require("num_negatives", self.num_negatives, self.num_negatives < num_items, allowed)
        if self.sampling == "popularity":
            require("item_counts", num_counts, num_counts == num_items, f"{num_items} counts, for sampling=popularity")

    @classmethod
    def pick(cls, loss: str, **settings: Any) -> Self:
        """Keep what this loss uses of a full set of settings: one command line can then sweep over losses.

        Args:
            loss: the loss.
            settings: any fields of this class; those that the loss (or its sampling or sharing) has no use for are
                dropped.

        Raises:
            SettingsError: an unknown setting, or a value out of range.
        """
        known = {entry.name for entry in fields(cls)}
        for name in settings:
            require("setting", name, name in known, ", ".join(sorted(known)))
        one_of("loss", loss, LOSSES)
        used = used_by(loss) | {"paper_faithful"}
        kept = {name: value for name, value in settings.items() if name in used}
        if loss == "bce":
            kept.pop("num_negatives", None)
        if kept.get("sampling") in (None, "uniform"):
            kept.pop("alpha", None)
            kept.pop("logq", None)
        elif kept["sampling"] == "in_batch":
            kept.pop("alpha", None)
        if kept.get("paper_faithful"):
            kept.pop("logq", None)
            kept.pop("sharing", None)
        if kept.get("sharing") != "tile":
            kept.pop("tile_tokens", None)
        return cls(loss=loss, **kept)  # type: ignore[arg-type]  # checked by one_of


_SAMPLING_OPTIONS = frozenset({"num_negatives", "sampling", "alpha", "sharing", "tile_tokens"})
_SCE_OPTIONS = frozenset({"sce_buckets", "sce_bucket_size_x", "sce_bucket_size_y", "sce_mix_x"})
_LOSS_OPTIONS = _SAMPLING_OPTIONS | _SCE_OPTIONS | {"logq", "gbce_t", "impl"}
_LOSS_DEFAULTS: Mapping[str, Any] = {
    "sampling": "uniform",
    "sharing": "none",
    "gbce_t": 0.75,
    "sce_buckets": 443,
    "sce_bucket_size_x": 443,
    "sce_bucket_size_y": 512,
    "sce_mix_x": True,
    "impl": "auto",
}
_USED: Mapping[str, frozenset[str]] = {
    "ce": frozenset(),
    "cce": frozenset({"impl"}),
    "ce_neg": _SAMPLING_OPTIONS | {"logq"},
    "cce_neg": _SAMPLING_OPTIONS | {"logq", "impl"},
    "bce": _SAMPLING_OPTIONS | {"impl"},
    "bce_neg": _SAMPLING_OPTIONS | {"impl"},
    "gbce": _SAMPLING_OPTIONS | {"impl", "gbce_t"},
    "sce": _SCE_OPTIONS,
}


def used_by(loss: str) -> frozenset[str]:
    """The names of the options of `LossSettings` that a loss uses."""
    return _USED[loss]


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
