"""The rules for the settings that params.yaml leaves to the program: ``auto`` becomes a value, with its reason.

The rules read the training histories and the catalogue and nothing of the machine, so that equal parameters give the
same model everywhere. A value that params.yaml states is kept, and the rules for the other keys start from it. The
trainings that the rules were chosen by are in docs/accuracy.md ("Settings tried for the rules of auto") and
``results/defaults.jsonl``. This module imports no torch.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ruamel.yaml import YAML

from cutrec.checksums import verified
from cutrec.config import read_yaml, refuse_contradictions
from cutrec.config_point import Config, settled
from rec_data.arrays import Int64s
from rec_data.sequences.examples import UNREAD, Examples, half_overlapping, last_windows, sliding_windows
from rec_data.stated import stated_value
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

SHORT = 15
"""Items of the mean training history below which a log counts as one of short histories."""
EXACT_ITEMS = 100_000
"""The largest catalogue whose exact softmax is taken."""
NEGATIVES = 2048
"""Negatives of a sampled softmax."""
POINTWISE_NEGATIVES = 256
"""Negatives of pointwise losses, which are summed for each token."""
LENGTHS = (16, 200)
"""The range of ``max_seq_len``."""
LENGTH_QUANTILE = 0.99
LENGTH_STEP = 8
EPOCH_STEPS = (30, 500)
"""The range of optimizer steps of an epoch: with fewer ``batch_size`` is halved, with more it is doubled."""
BATCHES = (64, 1024)
"""The range of ``batch_size``."""
WIDEST = {1_000_000: 256, 10_000_000: 128}
"""The largest ``backbone.hidden`` by the most items of the catalogue: the item table and its moments grow with both."""
NARROWEST = 64
"""The width for larger catalogues."""
AVERAGED_STEPS = 300
"""Optimizer steps of the time constant of ``train.averaging``."""
AVERAGED_EPOCHS = (1.0, 3.0)
"""The range of ``train.averaging``."""
AVERAGED_BYTES = 2**30
"""The largest average of the item table, 4 bytes an element, that is kept; it is a quarter of what Adam takes of it."""
MAX_EPOCHS = 200
PATIENCE_STEPS = 1000
PATIENCE = (3, 10)
"""The range of ``train.patience``; twice that for pointwise losses."""
AVERAGED_PATIENCE = 6
"""The most with averaging, whose validation is steady: 15 of 17 trainings lost nothing by it, two 0.4 and 0.9 %."""
POINTWISE_PATIENCE = 100
"""The most epochs of patience with pointwise losses, whose `PATIENCE_STEPS` count in full: they stay at the ranking by
popularity for some 1,800 steps (gBCE on MovieLens-100K), which a small log makes in a hundred epochs."""
POINTWISE_STEPS = 8000
"""Steps that pointwise losses may take where `MAX_EPOCHS` makes fewer."""
POINTWISE_EPOCHS = 1000
"""The most epochs that these steps may make."""


class LengthDefaults(NamedTuple):
    """The defaults that depend on whether histories are short."""

    blocks: int
    hidden: int
    dropout: float
    learning_rate: float
    batch_size: int
    mask_prob: float


SHORT_HISTORIES = LengthDefaults(blocks=2, hidden=256, dropout=0.4, learning_rate=0.0005, batch_size=256, mask_prob=0.4)
LONG_HISTORIES = LengthDefaults(blocks=3, hidden=128, dropout=0.2, learning_rate=0.001, batch_size=128, mask_prob=0.2)


class Decision(NamedTuple):
    """A value that the rules chose."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = "none" if self.value is None else self.value
        value = stated_value(value) if isinstance(value, bool) else value
        return f"{self.key}: {value}, because {self.reason}"


@dataclass(frozen=True)
class Facts:
    """What the rules know about a split."""

    items: int
    """V, the catalogue."""
    lengths: Int64s
    """[n] items of each training history of at least two, or of a fair sample of them."""
    users: int
    """Training histories of at least two items."""

    @classmethod
    def of(cls, items: int, lengths: Int64s) -> "Facts":
        """The facts of a split, from the lengths of all its training histories."""
        usable = lengths[lengths >= 2]
        return cls(items, usable, len(usable))

    @cached_property
    def mean_length(self) -> float:
        """Items of the mean history."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    def examples(self, point: Config) -> Examples:
        """The examples of an epoch of a point, of the histories in `lengths`."""
        masked = ENCODERS[point.model].masked
        span = point.max_seq_len + (not masked)  # a next-item example reads all but its last item
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        if point.train.window is None:
            return last_windows(offsets, span)
        return sliding_windows(offsets, span, point.train.window, full=masked)

    def unread(self, point: Config) -> float:
        """The share of the interactions that no example of a point contains."""
        if point.train.window is not None or not len(self.lengths):
            return 0.0
        return 1 - float(self.examples(point).lengths.sum() / self.lengths.sum())


def decide(point: Config, facts: Facts) -> tuple[Config, list[Decision]]:
    """The point with a value for every key that is ``auto``, and how each was chosen.

    A key that the point does not use, such as the number of negatives of an exact loss, keeps its default without a
    decision.

    Raises:
        ConfigError: the explicit values contradict each other or the decided ones.
    """
    found: list[Decision] = []

    def take(key: str, value: Any, reason: str) -> None:
        nonlocal point
        if key in point.undecided:
            point = settled(point, {key: value})
            found.append(Decision(key, value, reason))

    histories = f"the mean history has {facts.mean_length:.0f} items"
    is_short = facts.mean_length < SHORT
    kind = SHORT_HISTORIES if is_short else LONG_HISTORIES
    histories += f", fewer than {SHORT}" if is_short else f", {SHORT} or more"

    take("loss", *_loss(facts))
    loss, masked = LOSSES[point.loss], ENCODERS[point.model].masked
    if loss.sampled and not loss.fixed_negatives:
        take("num_negatives", *_negatives(point.loss, facts))
    take("max_seq_len", *_length(point, facts))
    take("train.window", *_window(point, facts))
    take("batch_size", *_batch_size(kind.batch_size, histories, point, facts))
    take("backbone.blocks", kind.blocks, histories)
    take("backbone.hidden", *_hidden(kind.hidden, histories, facts))
    take("backbone.dropout", kind.dropout, histories)
    take("backbone.scale_embeddings", not masked, f"{point.model} {'loses' if masked else 'gains'} by it")
    if masked:
        take("backbone.mask_prob", kind.mask_prob, histories)
    take("train.learning_rate", kind.learning_rate, histories)
    take("train.averaging", *_averaging(point, facts))
    take("train.max_epochs", *_max_epochs(point, facts))
    take("train.patience", *_patience(point, facts))
    point = dataclasses.replace(point, undecided=())
    refuse_contradictions(point)
    return point, found


def _loss(facts: Facts) -> tuple[str, str]:
    if facts.items <= EXACT_ITEMS:
        return "cce", f"the exact softmax over {facts.items:,} items is affordable (up to {EXACT_ITEMS:,})"
    return "cce_neg", f"the exact softmax over {facts.items:,} items is expensive (above {EXACT_ITEMS:,})"


def _negatives(loss: str, facts: Facts) -> tuple[int, str]:
    wanted = POINTWISE_NEGATIVES if LOSSES[loss].pointwise else NEGATIVES
    if wanted < facts.items:
        return wanted, f"{loss} gains little by more"
    return max(1, facts.items - 1), f"the catalogue has {facts.items:,} items"


def _length(point: Config, facts: Facts) -> tuple[int, str]:
    lowest, highest = LENGTHS
    longest = float(np.quantile(facts.lengths, LENGTH_QUANTILE)) if len(facts.lengths) else 0.0
    value = min(highest, max(lowest, LENGTH_STEP * math.ceil(longest / LENGTH_STEP)))
    reason = f"{LENGTH_QUANTILE:.0%} of the histories have at most {longest:.0f} items"
    if longest > highest:
        reason += f", and {highest} is the most that is chosen"
    if "train.window" not in point.undecided and (point.train.window or 0) > value:
        return point.train.window or value, f"train.window is {point.train.window}"
    return value, reason


def _window(point: Config, facts: Facts) -> tuple[int | None, str]:
    unread = facts.unread(point)
    reason = f"{unread:.0%} of the interactions are older than the last {point.max_seq_len} of their user"
    if unread > UNREAD:
        return half_overlapping(point.max_seq_len), reason
    return None, f"only {reason}" if unread else f"no history is longer than {point.max_seq_len} items"


def _hidden(wanted: int, histories: str, facts: Facts) -> tuple[int, str]:
    widest = next((width for items, width in WIDEST.items() if facts.items <= items), NARROWEST)
    if wanted <= widest:
        return wanted, histories
    return widest, f"the table of {facts.items:,} items is large"


def _batch_size(usual: int, histories: str, point: Config, facts: Facts) -> tuple[int, str]:
    """The usual size, halved or doubled until an epoch has a number of steps in `EPOCH_STEPS`, as `BATCHES` allows."""

    def steps(size: int) -> int:
        return _steps(dataclasses.replace(point, batch_size=size), facts)

    value, (fewest, most) = usual, EPOCH_STEPS
    while value > BATCHES[0] and steps(value) < fewest:
        value //= 2
    while value < BATCHES[1] and steps(value) > most:
        value *= 2
    if value == usual:
        return value, histories
    return value, f"an epoch has {_examples(point, facts):,} examples"


def _examples(point: Config, facts: Facts) -> int:
    share = facts.users / max(1, len(facts.lengths))  # of which `lengths` are a sample
    return round(len(facts.examples(point)) * share)


def _steps(point: Config, facts: Facts) -> int:
    """Optimizer steps of an epoch."""
    sequences = point.batch_size * point.train.devices * point.train.accumulate
    return max(1, math.ceil(_examples(point, facts) / sequences))


def _averaging(point: Config, facts: Facts) -> tuple[float, str]:
    """Epochs that make `AVERAGED_STEPS` optimizer steps; none where the average would take much memory."""
    size = 4 * facts.items * point.backbone.hidden
    if size > AVERAGED_BYTES:
        return 0.0, f"an average of the table of {facts.items:,} items would take {size / 2**30:.1f} GiB"
    steps, (lowest, highest) = _steps(point, facts), AVERAGED_EPOCHS
    return min(highest, max(lowest, round(AVERAGED_STEPS / steps, 1))), f"an epoch has {steps:,} steps"


def _max_epochs(point: Config, facts: Facts) -> tuple[int, str]:
    value = math.ceil(POINTWISE_STEPS / _steps(point, facts)) if LOSSES[point.loss].pointwise else MAX_EPOCHS
    return min(POINTWISE_EPOCHS, max(MAX_EPOCHS, value)), "train.patience ends training earlier"


def _patience(point: Config, facts: Facts) -> tuple[int, str]:
    """Epochs that make `PATIENCE_STEPS` optimizer steps."""
    steps = _steps(point, facts)
    lowest, highest = PATIENCE
    if point.train.averaging and not LOSSES[point.loss].pointwise:
        highest = AVERAGED_PATIENCE
    value = min(highest, max(lowest, math.ceil(PATIENCE_STEPS / steps)))
    reason = f"an epoch has {steps:,} steps"
    if LOSSES[point.loss].pointwise:
        in_full = min(POINTWISE_PATIENCE, math.ceil(PATIENCE_STEPS / steps))
        return max(2 * value, in_full), f"{reason}, and {point.loss} starts slowly"
    return value, reason


def write_decisions(path: Path, decisions: list[Decision]) -> None:
    """Write ``decided``: the value and the reason of each key that was ``auto``."""
    decided = {key: {"value": value, "reason": reason} for key, value, reason in decisions}
    yaml = YAML()
    yaml.width = 1000
    with path.open("w", encoding="utf-8") as file:
        yaml.dump({"decided": decided}, file)


def read_decisions(point: Config, path: Path) -> Config:
    """The point as it was trained, by the file that `write_decisions` wrote; a decided point needs no file.

    Raises:
        StageError: there is no such file, or it is damaged.
    """
    return with_decisions(point, read_yaml(verified(path))) if point.undecided else point


def with_decisions(point: Config, written: Mapping[str, Any]) -> Config:
    """The point with the values of a mapping that `write_decisions` wrote."""
    values = {key: entry["value"] for key, entry in written["decided"].items() if key in point.undecided}
    return dataclasses.replace(settled(point, values), undecided=())  # a key without a decision has no effect
