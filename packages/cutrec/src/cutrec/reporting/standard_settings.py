"""The standard settings, and how a point differs from them.

A result has columns for model, network, loss, sampling, data set, sizes and negatives; one more column, `options`,
lists the other settings that differ from the standard ones. The standard settings are the defaults of params.yaml,
except for four, and the options of the network, that the paper's tables are trained with; a test compares them with
every point of ``grid`` in params.yaml.
"""

import dataclasses
from typing import Any, Literal

from cutrec import config
from cutrec.config_point import Config, as_written
from cutrec.config_rows import sce_sizes
from cutrec.nested import as_yaml
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

PAPER_NETWORK: dict[str, Any] = {
    "activation": "relu", "attention_dropout": 0.1, "initialization": "xavier", "norm": "query",
    "scale_embeddings": True,
}  # fmt: skip
"""The options of the paper's SASRec, as ``presets.paper_sasrec`` has them. Its BERT4Rec has the default ones."""
_COLUMNS = frozenset(
    {"dataset", "model", "loss", "batch_size", "max_seq_len", "num_negatives", "seed", "paper_faithful",
     "negatives.sampling", "negatives.sharing", "backbone.hidden", "train.precision"}
)  # fmt: skip
"""Keys that a result has columns for."""
_WITHOUT_EFFECT = frozenset({*config.NAMES, "download.mirror", "evaluate.k", "report.item_names", "train.tracker"})
"""Keys that change no field of a result; the values of a preset or a row are among the other keys."""


def network(point: Config) -> Literal["plain", "paper"]:
    """Which network the options of a point are nearest to: the paper's SASRec if it has all of them."""
    found = {name: getattr(point.backbone, name) for name in PAPER_NETWORK}
    return "paper" if point.model == "sasrec" and found == PAPER_NETWORK else "plain"


def standard(point: Config) -> Config:
    """The standard settings for a point's model, loss and sizes."""
    base = Config()
    return dataclasses.replace(
        base,
        model=point.model,
        backbone=dataclasses.replace(base.backbone, **(PAPER_NETWORK if network(point) == "paper" else {})),
        loss=point.loss,
        batch_size=point.batch_size,
        max_seq_len=point.max_seq_len,
        losses=dataclasses.replace(base.losses, sce=sce_sizes(point.batch_size, point.max_seq_len)),
        train=dataclasses.replace(base.train, weight_decay=1e-5 if point.model == "bert4rec" else 0.0),
        evaluate=dataclasses.replace(base.evaluate, reference="test_input"),
        download=dataclasses.replace(base.download, ties="row_order"),
    )


def options(point: Config) -> str | None:
    """The settings that differ from the standard ones, as ``dropout=0.3;learning_rate=0.0003``; None if none differ.

    Sorted, without the keys that a result has columns for and without those that the point does not use.
    """
    usual, found = as_written(standard(point)), as_written(point)
    changed = {
        key.partition(".")[2] or key: value  # train.learning_rate is learning_rate
        for key, value in found.items()
        if key not in _COLUMNS | _WITHOUT_EFFECT and value != usual[key] and is_used(key, point)
    }
    return ";".join(f"{name}={as_yaml(changed[name])}" for name in sorted(changed)) or None


def is_used(key: str, point: Config) -> bool:
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
