"""The settings that ``cutrec tune`` tries. All of them are in this file, with the reasons for their ranges.

Each axis is a list of values in an order, so that the search can learn from neighbours. The decided value of the split
(`cutrec.decide`) is on every axis. A key that params.yaml states stays as it is: only keys that are ``auto``, and other
keys with their default value, are searched.

Not searched: ``train.max_epochs`` and ``train.patience``, because training ends by itself when validation no longer
improves; ``train.averaging``, because the rules decide it for each trial from its steps; ``train.weight_decay``,
because dropout regularizes already and every further axis thins out the trials;
``backbone.attention_dropout``, because it makes attention work on padded histories, which is slower.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutrec.config_point import AUTO_KEYS, Config, as_written, settled
from cutrec.decide import EXACT_ITEMS, LENGTH_QUANTILE, LENGTH_STEP, LENGTHS, Facts, decide
from rec_data.sequences.examples import UNREAD
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

Settings = dict[str, Any]
"""Dotted keys of params.yaml and their values."""

GRIDS: dict[str, tuple[Any, ...]] = {
    "backbone.hidden": (64, 128, 256, 512),  # powers of two: kernels compute tiles of these sizes
    "backbone.blocks": (1, 2, 3),  # the published networks have two
    "backbone.dropout": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),  # dense logs gain by little, sparse ones by much
    "backbone.scale_embeddings": (False, True),  # the largest single gain on sparse logs, a loss for BERT4Rec
    "backbone.mask_prob": (0.15, 0.25, 0.4, 0.6),  # of BERT4Rec; at 0.15 a short history has about one target
    "batch_size": (64, 128, 256, 512, 1024),  # those up to `BATCH_FACTOR` times smaller or larger than the decided one
    "train.learning_rate": (0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0014, 0.002),  # equal ratios; of Adam
}
BATCH_FACTOR = 4
"""Smaller batches make epochs too long for a large log, and larger ones make too few steps of a small log."""
NEGATIVE_COUNTS = (512, 1024, 2048, 4096)
"""Of a sampled softmax, from the number that loses little accuracy on a small catalogue (docs/accuracy.md) upwards."""
SAMPLED_ITEMS = 10_000
"""Items of a catalogue from which on a sampled softmax is tried; below, the exact loss takes about as long."""
LONGEST = 400
"""The largest ``max_seq_len`` that is tried: attention costs its square."""
SHARES = (1.0, 0.5, 0.25)
"""Of the longest useful history, the values of ``max_seq_len``."""
WINDOWS = (0.0, 0.5)
"""Of ``max_seq_len``, the values of ``train.window``; 0: only the end of each history is trained on."""


@dataclass(frozen=True)
class Space:
    """The axes of a search around a decided point."""

    asked: Config
    """The point as params.yaml has it."""
    facts: Facts
    point: Config
    """The decided defaults, which are tried first."""
    axes: dict[str, tuple[Any, ...]]
    """The values of each axis by the key that it sets. Values of ``loss`` are `Settings`, those of ``train.window``
    shares of ``max_seq_len``."""
    first: dict[str, int]
    """The place of the decided value on each axis."""

    def settings(self, places: Mapping[str, int]) -> Settings:
        """The settings at these places of the axes."""
        found: Settings = {}
        for name, values in self.axes.items():
            value = values[places[name]]
            found |= value if isinstance(value, dict) else {name: value}
        if share := found.get("train.window"):
            found["train.window"] = max(1, round(share * found.get("max_seq_len", self.point.max_seq_len)))
        elif "train.window" in found:
            found["train.window"] = None
        return found

    def at(self, settings: Settings) -> Config:
        """The point with these settings; the rules decide what else is ``auto``, such as the patience, from there."""
        return decide(settled(self.asked, settings), self.facts)[0]


def space_of(asked: Config, facts: Facts) -> Space:
    """The space around what is decided for a split, without the keys that the point states.

    Raises:
        ConfigError: settings contradict each other.
    """
    point, _ = decide(asked, facts)
    values, usual = as_written(point), as_written(Config())
    free = {key for key in values if (key in asked.undecided if key in AUTO_KEYS else values[key] == usual[key])}
    grids = GRIDS | {"max_seq_len": _lengths(point, facts, free)}
    sizes = GRIDS["batch_size"]
    grids["batch_size"] = tuple(size for size in sizes if 1 / BATCH_FACTOR <= size / point.batch_size <= BATCH_FACTOR)
    if not ENCODERS[point.model].masked:
        del grids["backbone.mask_prob"]
    axes: dict[str, tuple[Any, ...]] = {}
    first: dict[str, int] = {}

    def add(name: str, usual: Any, ordered: list[Any]) -> None:
        if len(ordered) > 1:
            axes[name], first[name] = tuple(ordered), ordered.index(usual)

    for key, grid in grids.items():
        if key in free:
            add(key, values[key], sorted({*grid, values[key]}))
    if "train.window" in free and _has_long_histories(point, facts, min(grids["max_seq_len"])):
        usual_share = (point.train.window or 0) / point.max_seq_len
        add("train.window", usual_share, sorted({*WINDOWS, usual_share}))
    losses = _losses(point, facts, free)
    add("loss", losses[0], sorted(losses, key=lambda loss: loss.get("num_negatives", math.inf)))
    return Space(asked, facts, point, axes, first)


def _lengths(point: Config, facts: Facts, free: set[str]) -> tuple[int, ...]:
    """Shares of the longest useful history; none is shorter than a window that stays."""
    if "max_seq_len" not in free:
        return (point.max_seq_len,)
    quantile = float(np.quantile(facts.lengths, LENGTH_QUANTILE))
    longest = min(LONGEST, LENGTH_STEP * math.ceil(quantile / LENGTH_STEP))
    least = 1 if "train.window" in free else point.train.window or 1
    lengths = {max(LENGTHS[0], round(share * longest)) for share in SHARES}
    return (*(length for length in lengths if length >= least), point.max_seq_len)


def _has_long_histories(point: Config, facts: Facts, length: int) -> bool:
    """Whether much of the log is never read without windows at this length."""
    return facts.unread(settled(point, {"max_seq_len": length, "train.window": None})) > UNREAD


def _losses(point: Config, facts: Facts, free: set[str]) -> list[Settings]:
    """The decided loss and the others, from few negatives to all items."""
    spec = LOSSES[point.loss]
    with_negatives = spec.sampled and not spec.fixed_negatives
    found: list[Settings] = [{"loss": point.loss} | ({"num_negatives": point.num_negatives} if with_negatives else {})]
    sampled = "cce_neg" if "loss" in free else point.loss if with_negatives else None
    if sampled is not None and facts.items > SAMPLED_ITEMS:
        counts = NEGATIVE_COUNTS if "num_negatives" in free else (point.num_negatives,)
        found += [{"loss": sampled, "num_negatives": count} for count in counts if count < facts.items]
    if "loss" in free and facts.items <= EXACT_ITEMS:
        found.append({"loss": "cce"})
    return [loss for place, loss in enumerate(found) if loss not in found[:place]]
