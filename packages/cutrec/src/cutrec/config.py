"""``params.yaml`` as frozen dataclasses: every key, its type, its range and the contradictions it can take part in.

This module imports no torch. ``load`` is the only way in: a wrong file raises `ParamsError`, whose text is one line
that names the key, says what was found and what is allowed.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cutrec.nested import flatten
from cutrec.strict import ParamsError, build, read_yaml, require

__all__ = [
    "NO_PRESET",
    "PRESET_KEYS",
    "Params",
    "ParamsError",
    "from_mapping",
    "load",
    "preset_values",
    "read_yaml",
    "refuse_contradictions",
]

NO_PRESET = "none"
"""The preset that is always there and sets nothing."""

PRESET_KEYS = (
    "model",
    "loss",
    "batch_size",
    "max_seq_len",
    "num_negatives",
    "negatives",
    "backbone",
    "losses",
    "train",
)
"""What a preset may set: what training reads and no stage before it."""


@dataclass(frozen=True)
class Negatives:
    """How the negatives of a sampled loss are drawn."""

    sampling: Literal["uniform", "popularity", "in_batch"] = "uniform"
    """The distribution q that negatives come from."""
    alpha: float = 1.0
    """Popularity sampling: q is proportional to ``count ** alpha``."""
    logq: bool = True
    """Correct scores by log q. False: by the uniform constant, as the paper does."""
    sharing: Literal["none", "tile", "batch"] = "tile"
    """Who shares one set of negatives: nobody, ``tile_tokens`` consecutive tokens, or the whole batch."""
    tile_tokens: int = 64
    """Tokens that share a set when ``sharing`` is ``tile``."""

    def __post_init__(self) -> None:
        require("negatives.alpha", self.alpha, 0 <= self.alpha < math.inf, "a finite number from 0")
        require("negatives.tile_tokens", self.tile_tokens, self.tile_tokens >= 1, "a whole number from 1")


@dataclass(frozen=True)
class Columns:
    """The column names of a log of one's own."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    """Null: the log has no rating, or it is not looked at."""

    def __post_init__(self) -> None:
        names = [name for name in (self.user, self.item, self.timestamp, self.rating) if name is not None]
        require("download.columns", names, len(set(names)) == len(names), "different column names")


@dataclass(frozen=True)
class Download:
    """Where the raw log comes from and how it is read."""

    mirror: str | None = None
    """A directory that already holds the raw files, for machines without internet."""
    columns: Columns = field(default_factory=Columns)
    min_rating: float | None = None
    """Keep ratings of at least this. Null: the data set's own rule (the paper: above 3), all of one's own log."""


@dataclass(frozen=True)
class Split:
    """How the log becomes train, validation and test."""

    strategy: Literal["temporal", "leave_one_out"] = "temporal"
    test_fraction: float = 0.1
    """Temporal: the share of all interactions, the latest ones, that form the future."""
    validation_users: float = 0.05
    """Temporal: the share of the users of the past whose sequences validate."""
    min_item_count: int | Literal["auto"] | None = "auto"
    """Drop items with fewer interactions. ``auto``: 5 for temporal, none for leave_one_out."""
    min_user_count: int | Literal["auto"] | None = "auto"
    """Drop users with fewer interactions, after the items. ``auto``: 3 for temporal, none for leave_one_out."""

    def __post_init__(self) -> None:
        for key, share in (("test_fraction", self.test_fraction), ("validation_users", self.validation_users)):
            require(f"split.{key}", share, 0 < share < 1, "a number between 0 and 1")
        for key, count in (("min_item_count", self.min_item_count), ("min_user_count", self.min_user_count)):
            holds = not isinstance(count, int) or count >= 1
            require(f"split.{key}", count, holds, "auto, null or a whole number from 1")


@dataclass(frozen=True)
class Backbone:
    """The network that turns a history into a vector."""

    blocks: int = 2
    heads: int = 2
    hidden: int = 64
    """Width of the network and of the item table."""
    dropout: float = 0.1
    attention_dropout: float = 0.0
    """Of attention weights, as SASRec and BERT4Rec were published; above 0 attention works on padded histories."""
    scale_embeddings: bool = False
    """Item vectors times sqrt(hidden) at the input, as SASRec's published code has it."""
    activation: Literal["gelu", "relu"] = "gelu"
    norm: Literal["pre", "post"] = "pre"
    """``post``: after each half of a block, as BERT4Rec was published."""
    mask_prob: float = 0.15
    """BERT4Rec: the share of a training sequence's items that are masked."""

    def __post_init__(self) -> None:
        for key in ("blocks", "heads", "hidden"):
            require(f"backbone.{key}", getattr(self, key), getattr(self, key) >= 1, "a whole number from 1")
        for key in ("dropout", "attention_dropout"):
            require(f"backbone.{key}", getattr(self, key), 0 <= getattr(self, key) < 1, "a number from 0 to below 1")
        require("backbone.mask_prob", self.mask_prob, 0 < self.mask_prob < 1, "a number between 0 and 1")
        if self.hidden % self.heads:
            raise ParamsError(
                f"backbone.hidden: found {self.hidden} with {self.heads} heads, allowed: a multiple of backbone.heads"
            )


@dataclass(frozen=True)
class Gbce:
    """Calibration of the generalised binary cross-entropy."""

    t: float = 0.75

    def __post_init__(self) -> None:
        require("losses.gbce.t", self.t, 0 <= self.t <= 1, "a number from 0 to 1")


@dataclass(frozen=True)
class Sce:
    """Sizes of the scalable cross-entropy."""

    buckets: int = 443
    bucket_size_x: int = 443
    """Tokens a bucket."""
    bucket_size_y: int = 512
    """Items a bucket."""
    mix_x: bool = True
    """Bucket centres are random mixtures of the batch's tokens instead of plain noise."""

    def __post_init__(self) -> None:
        for key in ("buckets", "bucket_size_x", "bucket_size_y"):
            require(f"losses.sce.{key}", getattr(self, key), getattr(self, key) >= 1, "a whole number from 1")


@dataclass(frozen=True)
class Losses:
    """Settings that belong to one loss only."""

    gbce: Gbce = field(default_factory=Gbce)
    sce: Sce = field(default_factory=Sce)


@dataclass(frozen=True)
class Train:
    """The training loop."""

    max_epochs: int = 20
    patience: int = 4
    """Epochs without a better validation NDCG@10 before training stops."""
    learning_rate: float = 0.001
    weight_decay: float = 0.0
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] = "bf16-mixed"
    """On a GPU. A CPU trains in 32-true, where mixed precision is slower."""
    window: int | None = None
    """Slide a window of ``max_seq_len`` over long histories, this many items a step. Null: the last window only."""
    devices: int = 1
    accumulate: int = 1
    """Batches a step of the optimiser."""
    optimizer: Literal["adam", "adam_bf16", "adam_rowwise", "adam_lazy"] = "adam"
    """Adam, and what it keeps of the item table: ``rec_models.config.TrainingSettings.optimizer``."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps then take a minute."""
    cuda_graphs: bool | Literal["auto"] = "auto"
    """On a GPU: record whole steps as CUDA graphs; ``auto``: where that can be done
    (``rec_models.config.TrainingSettings.cuda_graphs``)."""

    def __post_init__(self) -> None:
        for key in ("max_epochs", "patience", "devices", "accumulate"):
            require(f"train.{key}", getattr(self, key), getattr(self, key) >= 1, "a whole number from 1")
        rate, decay = self.learning_rate, self.weight_decay
        require("train.learning_rate", rate, 0 < rate < math.inf, "a finite number above 0")
        require("train.weight_decay", decay, 0 <= decay < math.inf, "a finite number from 0")
        require("train.window", self.window, self.window is None or self.window >= 1, "null or a whole number from 1")


@dataclass(frozen=True)
class Evaluate:
    """Ranking the catalogue and measuring the ranking."""

    k: tuple[int, ...] = (1, 5, 10, 20, 100)
    filter_seen: bool = True
    """Leave items of the user's own history out of the ranking."""
    reference: Literal["train", "test_input"] = "train"
    """The log that Coverage and Surprisal count in. ``test_input`` is the paper's choice."""
    batch_users: int = 1024

    def __post_init__(self) -> None:
        require("evaluate.k", list(self.k), 10 in self.k, "a list with 10 in it: the metric summary is at 10")
        require("evaluate.k", list(self.k), min(self.k) >= 1, "whole numbers from 1")
        require("evaluate.k", list(self.k), len(set(self.k)) == len(self.k), "a list without repeats")
        require("evaluate.batch_users", self.batch_users, self.batch_users >= 1, "a whole number from 1")


@dataclass(frozen=True)
class Params:
    """The current point, its preset applied. The grids of the paper's tables and the presets are no part of it."""

    dataset: str = "demo"
    model: Literal["sasrec", "bert4rec"] = "sasrec"
    loss: Literal["ce", "ce_neg", "cce", "cce_neg", "bce", "bce_neg", "gbce", "sce"] = "cce_neg"
    batch_size: int = 128
    """Sequences."""
    max_seq_len: int = 64
    num_negatives: int = 512
    """Negatives a token. ``bce`` takes one; ``ce``, ``cce`` and ``sce`` take none."""
    seed: int = 42
    paper_faithful: bool = False
    """Repeat the known defects of the paper's own code, to compare with its tables."""
    impl: Literal["auto", "triton", "reference"] = "auto"
    """Of the cut losses. ``auto``: Triton on CUDA, the chunked reference on CPU."""
    preset: str = NO_PRESET
    """A name of the section ``presets``: it decides the keys that it holds (see `from_mapping`)."""
    negatives: Negatives = field(default_factory=Negatives)
    download: Download = field(default_factory=Download)
    split: Split = field(default_factory=Split)
    backbone: Backbone = field(default_factory=Backbone)
    losses: Losses = field(default_factory=Losses)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        require("dataset", self.dataset, self.dataset.strip() != "", "a name or a path")
        for key in ("batch_size", "num_negatives"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "a whole number from 1")
        require("max_seq_len", self.max_seq_len, self.max_seq_len >= 2, "a whole number from 2")
        require("seed", self.seed, 0 <= self.seed < 2**32, "a whole number from 0 to 4294967295")


def from_mapping(values: dict[str, Any]) -> Params:
    """Parameters from the nested mapping that a YAML file holds; keys left out take their defaults.

    The preset that ``preset`` names decides the keys that it holds. DVC hands over final values only, so nobody can
    tell a value that was set from one that was always there: a key with its default makes room for the preset's value,
    and a third value is refused rather than silently dropped.

    Args:
        values: the mapping. ``grid`` is passed over: it holds other points.

    Raises:
        ParamsError: naming the key, what was found and what is allowed.
    """
    own = {key: value for key, value in values.items() if key not in ("grid", "presets")}
    point = typing.cast(Params, build(Params, own, ""))
    presets = values.get("presets", {})
    require("presets", presets, isinstance(presets, dict), "a section of presets by name")
    if point.preset != NO_PRESET:
        if point.preset not in presets:
            names = ", ".join([NO_PRESET, *(str(name) for name in presets if name != NO_PRESET)])
            raise ParamsError(f"preset: found {point.preset!r}, allowed: {names}")
        point = typing.cast(Params, build(Params, _with_preset(own, point.preset, presets[point.preset]), ""))
    return point


def refuse_contradictions(point: Params) -> None:
    """Refuse at once, in any stage, what training would refuse: keys that do not go together.

    `from_mapping` lets them pass: of the points of a table, some of which a setting does not fit, the others can run.

    Raises:
        ParamsError: naming a key, what was found and what is allowed.
    """
    from cutrec.workflow import training_inputs as of_point
    from rec_models.config import SettingsError

    try:
        of_point.model_settings(point)
        of_point.batch_settings(point)
        of_point.training_settings(point).check_loss(of_point.loss_settings(point))
    except SettingsError as error:
        raise ParamsError(_with_keys(str(error), of_point.keys_of_settings())) from None
    window, longest = point.train.window, point.max_seq_len
    fits = window is None or window <= longest
    require("train.window", window, fits, f"null or 1 to max_seq_len = {longest}")


def _with_keys(message: str, keys: Mapping[str, str]) -> str:
    """A message of `rec_models.config`, its first word and whatever is written ``name=`` as keys of params.yaml."""
    name, colon, rest = message.partition(": ")
    return keys.get(name, name) + colon + re.sub(r"\b(\w+)(?==)", lambda found: keys.get(found[0], found[0]), rest)


def preset_values(name: str, preset: object) -> dict[str, Any]:
    """What a preset sets, flat: dotted key to value.

    Args:
        name: of the preset, for messages.
        preset: a mapping, nested like params.yaml.

    Raises:
        ParamsError: a preset of another form, or one that sets what it may not.
    """
    require(f"presets.{name}", preset, isinstance(preset, dict), "a section of keys of params.yaml")
    values = typing.cast(dict[str, Any], preset)
    for key in values:
        if key not in PRESET_KEYS:
            raise ParamsError(f"presets.{name}.{key}: a preset sets what training reads: {', '.join(PRESET_KEYS)}")
    try:
        build(Params, values, "")
    except ParamsError as error:
        raise ParamsError(f"presets.{name}.{error}") from None
    return flatten(values)


def _with_preset(values: dict[str, Any], name: str, preset: object) -> dict[str, Any]:
    """The values with those of a preset in place."""
    decided: dict[str, Any] = {**values}
    for key, value in preset_values(name, preset).items():
        *path, last = key.split(".")
        section, default = decided, typing.cast(Any, Params())
        for part in path:
            section[part] = {**section.get(part, {})}
            section, default = section[part], getattr(default, part)
        usual = getattr(default, last)
        found = section.get(last, usual)
        if found not in (usual, value):
            raise ParamsError(
                f"{key}: found {found!r} with preset={name}, which sets {value!r}, allowed: {usual!r} (the default: "
                f"the preset then decides); to change the preset, set presets.{name}.{key}={found}"
            )
        section[last] = value
    return decided


def load(path: Path = Path("params.yaml")) -> Params:
    """Read the parameters of the current point.

    Raises:
        ParamsError: the file is missing, is no YAML, or holds something that is not allowed.
    """
    point = from_mapping(read_yaml(path))
    refuse_contradictions(point)
    return point
