"""How the paper trains whatever its tables name, and what a point does otherwise.

A row of a table names model, loss, sampling, data set, sizes and negatives. Everything else it prescribes: the values
here, which a test holds equal to every point of ``grid`` in params.yaml. Two runs that differ in any of it measure
different things.
"""

from __future__ import annotations

import dataclasses
import math

from cutrec import config
from cutrec.nested import as_yaml, flatten
from rec_models.losses import LOSSES

WAYS = frozenset({"compile", "cuda_graphs", "impl", "optimizer"})
"""Options that say how a point is computed; all others say what is trained, or on what it is tested."""
_APART = frozenset(
    {"dataset", "model", "loss", "batch_size", "max_seq_len", "num_negatives", "seed", "paper_faithful",
     "negatives.sampling", "negatives.sharing", "backbone.hidden", "train.precision"}
)  # fmt: skip
"""Keys that are columns of a result already."""
_WITHOUT_EFFECT = frozenset({"preset", "download.mirror", "evaluate.k"})
"""Keys that change nothing of what a result holds: a preset's values are among the others."""


def prescribed(point: config.Config) -> config.Config:
    """A point with everything that the tables do not name as the paper has it.

    Args:
        point: any; its model, loss and sizes decide.
    """
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
    )


def sce_sizes(batch_size: int, max_seq_len: int) -> config.Sce:
    """The paper's rule: as many buckets as tokens in each, from the places of a whole batch."""
    buckets = int(2 * math.sqrt(batch_size * max_seq_len))
    return config.Sce(buckets=buckets, bucket_size_x=buckets)


def options(point: config.Config) -> str | None:
    """What a point does otherwise than prescribed, as ``dropout=0.3;learning_rate=0.0003``; None: nothing.

    Sorted, without the keys that are columns of a result and without those that the point's loss has no use for.
    """
    usual = flatten(dataclasses.asdict(prescribed(point)))
    found = flatten(dataclasses.asdict(point))
    changed = {
        _short(key): value
        for key, value in found.items()
        if key not in _APART | _WITHOUT_EFFECT and value != usual[key] and is_used(key, point)
    }
    return ";".join(f"{name}={as_yaml(changed[name])}" for name in sorted(changed)) or None


def only_ways(text: str | None) -> bool:
    """Whether `options` say no more than how a point was computed: it is the paper's point then."""
    return all(entry.partition("=")[0] in WAYS for entry in (text or "").split(";") if entry)


def _short(key: str) -> str:
    """Without its section: ``train.learning_rate`` is ``learning_rate``."""
    return key.partition(".")[2] or key


def is_used(key: str, point: config.Config) -> bool:
    """Whether a key, dotted, changes anything of a point: as `rec_models.config.LossSettings.pick` keeps it."""
    sampling, own = point.negatives.sampling, not point.paper_faithful
    loss = LOSSES[point.loss]
    conditions = {
        "impl": loss.fused,
        "num_negatives": loss.sampled and point.loss != "bce",
        "backbone.mask_prob": point.model == "bert4rec",
        "negatives.sampling": loss.sampled,
        "negatives.sharing": own and loss.sampled,
        "negatives.alpha": loss.sampled and sampling == "popularity",
        "negatives.logq": own and loss.corrects_logq and sampling != "uniform",
        "negatives.tile_tokens": own and loss.sampled and point.negatives.sharing == "tile",
        "losses.gbce.t": point.loss == "gbce",
    }
    return conditions.get(key, point.loss == "sce" or not key.startswith("losses.sce."))
