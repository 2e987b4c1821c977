"""``params.yaml`` as one frozen dataclass, composed of the sections that the packages declare.

What a key means, its type and its range are written in the package that uses it: `rec_data.config`, `rec_models.config`
and `rec_eval.config`. `cutrec.config` reads and checks the file. This module imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from cutrec.config_rows import NO_ROW
from cutrec.nested import flatten, nest
from rec_data.config import Download, Split
from rec_eval.config import Evaluate
from rec_models.config import Backbone, Impl, Losses, LossName, MaxSeqLen, ModelName, Negatives, Seed, Train
from rec_models.fields import STRICT, Count

NO_PRESET = "none"
"""The preset that is always there and sets nothing."""

AUTO = "auto"
"""The value of a key that the train stage decides from the split (`cutrec.decide`)."""
AUTO_KEYS = (
    "loss", "batch_size", "max_seq_len", "num_negatives", "backbone.blocks", "backbone.hidden", "backbone.dropout",
    "backbone.scale_embeddings", "backbone.mask_prob", "train.max_epochs", "train.patience", "train.learning_rate",
    "train.averaging", "train.window",
)  # fmt: skip
"""The keys that may be `AUTO`."""


def _check_not_blank(name: str) -> str:
    if not name.strip():
        raise ValueError("allowed: a name or a path")
    return name


def _check_row_data(found: str) -> str:
    if not re.fullmatch(r"real|twin(@\S+)?", found):
        raise ValueError("allowed: real | twin | twin@SCALE, such as twin@0.01")
    return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Report:
    """What the report shows beside the results."""

    item_names: Annotated[str, AfterValidator(_check_not_blank)] | None = None
    """A parquet or CSV file with the columns ``id`` and ``title``: titles for the items of the example users.

    With a column ``group`` too (a genre, a brand), the diversity of the lists is measured."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """The current point, its preset or row applied. The paper's tables and the presets are no part of it.

    The values of `undecided` keys are placeholders: nothing is trained before `cutrec.decide.decide` has replaced them.
    """

    dataset: Annotated[str, AfterValidator(_check_not_blank)] = "demo"
    """``demo``, ``twin:<name>``, the name of a published data set, or a path."""
    model: ModelName = "sasrec"
    """``sasrec`` looks back only, ``bert4rec`` looks both ways at a history with masked items."""
    loss: LossName = "cce_neg"
    """What training minimizes (docs/losses.md)."""
    batch_size: Count = 128
    """Sequences."""
    max_seq_len: MaxSeqLen = 64
    """Longest history; of a longer one the last items are read."""
    num_negatives: Count = 512
    """Negatives per token. ``bce`` takes one; losses over the whole catalogue take none."""
    seed: Seed = 42
    """Of the split, of ties, of the weights, of dropout and of the negatives."""
    paper_faithful: bool = False
    """Repeat the known defects of the paper's own code, to compare with its tables."""
    impl: Impl = "auto"
    """Of the losses of cce_kernels. ``auto``: Triton on a GPU from compute capability 8.0 on, else plain PyTorch."""
    preset: str = NO_PRESET
    """A name of the section ``presets``: it decides the keys that it holds (see `from_mapping`)."""
    row: str = NO_ROW
    """A row of the paper's tables, such as ``4/gowalla``: it decides the keys that it holds (see `from_mapping`)."""
    row_data: Annotated[str, AfterValidator(_check_row_data)] = "real"
    """With a row: its data set (``real``), or the synthetic log of its shape (``twin``, or ``twin@SCALE``)."""
    split_folder: Annotated[str, AfterValidator(_check_not_blank)] = "data/split"
    """The split that the stages train and evaluate read. Another folder than that of the stage split is a split that
    was made elsewhere, such as on a Spark cluster (docs/split-on-spark.md)."""
    negatives: Negatives = field(default_factory=Negatives)
    download: Download = field(default_factory=Download)
    split: Split = field(default_factory=Split)
    backbone: Backbone = field(default_factory=Backbone)
    losses: Losses = field(default_factory=Losses)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    report: Report = field(default_factory=Report)
    undecided: tuple[str, ...] = ()
    """The dotted keys that params.yaml sets to `AUTO`, in the order of `AUTO_KEYS`. No key of params.yaml itself."""


def as_written(point: Config) -> dict[str, Any]:
    """The values of a point as params.yaml writes them: dotted keys, and `AUTO` where nothing is decided yet."""
    values = flatten(asdict(point))
    return {key: value for key, value in values.items() if key != "undecided"} | dict.fromkeys(point.undecided, AUTO)


def settled(point: Config, values: Mapping[str, Any]) -> Config:
    """The point with values, by dotted key, for some of its undecided keys."""
    changes = {
        key: replace(getattr(point, key), **value) if isinstance(value, dict) else value
        for key, value in nest(values).items()
    }
    return replace(point, **changes, undecided=tuple(key for key in point.undecided if key not in values))
