"""The standard settings, and how a point differs from them.

A result has columns for model, loss, sampling, data set, sizes and negatives; one more column, `options`, lists the
other settings that differ from the standard ones. The standard settings are the defaults of params.yaml, except for
four that the paper's tables are trained with and that a test compares with every point of ``grid`` in params.yaml.
"""

import dataclasses
import math

from cutrec import config
from cutrec.nested import as_yaml
from rec_models.config import Sce
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

_COLUMNS = frozenset(
    {"dataset", "model", "loss", "batch_size", "max_seq_len", "num_negatives", "seed", "paper_faithful",
     "negatives.sampling", "negatives.sharing", "backbone.hidden", "train.precision"}
)  # fmt: skip
"""Keys that a result has columns for."""
_WITHOUT_EFFECT = frozenset({"preset", "download.mirror", "evaluate.k", "report.item_names"})
"""Keys that change no field of a result; the values of a preset are among the other keys."""


def standard(point: config.Config) -> config.Config:
    """The standard settings for a point's model, loss and sizes."""
    base = config.Config()
    return dataclasses.replace(
        base,
        model=point.model,
        loss=point.loss,
        batch_size=point.batch_size,
        max_seq_len=point.max_seq_len,
        losses=dataclasses.replace(base.losses, sce=sce_sizes(point.batch_size, point.max_seq_len)),
        train=dataclasses.replace(base.train, weight_decay=1e-5 if point.model == "bert4rec" else 0.0),
        evaluate=dataclasses.replace(base.evaluate, reference="test_input"),
        download=dataclasses.replace(base.download, ties="row_order"),
    )


def sce_sizes(batch_size: int, max_seq_len: int) -> Sce:
    """The paper's rule for SCE: the number of buckets equals the tokens per bucket, 2 sqrt(B L)."""
    buckets = int(2 * math.sqrt(batch_size * max_seq_len))
    return Sce(buckets=buckets, bucket_size_x=buckets)


def options(point: config.Config) -> str | None:
    """The settings that differ from the standard ones, as ``dropout=0.3;learning_rate=0.0003``; None if none differ.

    Sorted, without the keys that a result has columns for and without those that the point does not use.
    """
    usual, found = config.as_written(standard(point)), config.as_written(point)
    changed = {
        key.partition(".")[2] or key: value  # train.learning_rate is learning_rate
        for key, value in found.items()
        if key not in _COLUMNS | _WITHOUT_EFFECT and value != usual[key] and is_used(key, point)
    }
    return ";".join(f"{name}={as_yaml(changed[name])}" for name in sorted(changed)) or None


def is_used(key: str, point: config.Config) -> bool:
    """Whether a dotted key has an effect at a point.

    Options of losses have one if `rec_models.losses.settings.LossSettings.pick` keeps the point's value.
    """
    if key == "backbone.mask_prob":
        return ENCODERS[point.model].masked
    option = key.removeprefix("negatives.").removeprefix("losses.").replace(".", "_")
    if option == "num_negatives" and LOSSES[point.loss].fixed_negatives:
        return False
    if option in ("logq", "sharing") and point.paper_faithful:
        return False
    return vars(config.loss_settings(point)).get(option, key) is not None
