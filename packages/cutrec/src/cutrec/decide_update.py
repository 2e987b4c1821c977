"""The rules for training a model further (``train.init_from``): its network stays, and a short loop is enough.

The trainings that the rules were chosen by are in docs/retrain-daily.md and ``results/updates/``. This module imports
no torch.
"""

from collections.abc import Mapping
from typing import Any

from cutrec.config import from_mapping
from cutrec.config_point import AUTO, NO_PRESET, Config, as_written, settled
from cutrec.config_rows import NO_ROW
from cutrec.decide import Decision, Facts, decide
from cutrec.errors import ConfigError
from cutrec.nested import nest

SCHEDULE = ("train.max_epochs", "train.patience", "train.learning_rate", "train.averaging")
"""The keys that are decided again for an update; all others that are ``auto`` keep the values of the model."""
SHAPES = (
    "model", "max_seq_len", "backbone.blocks", "backbone.heads", "backbone.hidden", "backbone.scale_embeddings",
    "backbone.activation", "backbone.norm",
)  # fmt: skip
"""The keys that the weights depend on."""
EPOCHS = 3
"""Epochs of an update; each reads every example with new events, and as many others."""
PATIENCE = 2
LEARNING_RATE = 0.001
"""The least learning rate: with the 0.0005 of short histories, a few epochs teach too little about new items."""
AVERAGING = 1.0
"""The most epochs of the time constant of ``train.averaging``."""


def for_update(point: Config) -> Config:
    """The point of a model as one of its updates, for which `SCHEDULE` is decided again."""
    kept = as_written(point) | dict.fromkeys(SCHEDULE, AUTO) | {"preset": NO_PRESET, "row": NO_ROW}
    return from_mapping(nest(kept))


def decide_update(
    point: Config, facts: Facts, trained: Mapping[str, Any], share: float | None
) -> tuple[Config, list[Decision]]:
    """The point with a value for every key that is ``auto``, and how each was chosen.

    Args:
        point: the configuration.
        facts: of the split.
        trained: the values that the model was trained with, of `AUTO_KEYS` and `SHAPES`, by dotted key.
        share: the examples of an epoch, as a part of all examples of the histories; None: all of another log, which is
            no update, and trains as long as one that begins with random weights.

    Raises:
        ConfigError: the network is not the model's, or settings contradict each other.
    """
    fixed = {key: trained[key] for key in point.undecided if key not in SCHEDULE and key in trained}
    point = settled(point, fixed)
    decisions = [Decision(key, value, "the model has it") for key, value in fixed.items()]
    _refuse_other_network(point, trained)
    if share is not None:
        schedule = _schedule(share, trained)
        found = [decision for decision in schedule if decision.key in point.undecided]
        point = settled(point, {decision.key: decision.value for decision in found})
        decisions += found
    point, others = decide(point, facts)
    return point, decisions + others


def _schedule(share: float, trained: Mapping[str, Any]) -> tuple[Decision, ...]:
    """The values of `SCHEDULE`."""
    usual, averaging = trained["train.learning_rate"], trained["train.averaging"]
    reason = "an update has few epochs"
    return (
        Decision("train.max_epochs", EPOCHS, f"an epoch reads {share:.0%} of the examples"),
        Decision("train.patience", PATIENCE, reason),
        Decision("train.learning_rate", max(usual, LEARNING_RATE), f"the model was trained with {usual:g}"),
        Decision("train.averaging", min(averaging, AVERAGING), reason),
    )


def _refuse_other_network(point: Config, trained: Mapping[str, Any]) -> None:
    found = as_written(point)
    for key in SHAPES:
        if found[key] != trained[key]:
            raise ConfigError(
                f"{key}: found {found[key]!r} with train.init_from={point.train.init_from}, allowed: "
                f"{trained[key]!r}, as that model has it, or auto"
            )
