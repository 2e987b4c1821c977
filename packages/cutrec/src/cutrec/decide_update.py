"""The rules for training a model further (``train.init_from``): its network stays, and a short loop is enough.

The trainings that the rules were chosen by are in docs/retrain-daily.md and ``results/updates/``. This module imports
no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
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
RATE = 0.5
"""The learning rate, as a part of that of the model's own training."""
PASSES = 2.0
"""Examples that an update reads, as a multiple of all examples of the histories."""
PATIENCE = 3


def for_update(point: Config) -> Config:
    """The point of a model as one of its updates, for which `SCHEDULE` is decided again."""
    kept = as_written(point) | dict.fromkeys(SCHEDULE, AUTO) | {"preset": NO_PRESET, "row": NO_ROW}
    return from_mapping(nest(kept))


def decide_update(
    point: Config, facts: Facts, trained: Mapping[str, Any], *, share: float, is_updated: bool
) -> tuple[Config, list[Decision]]:
    """The point with a value for every key that is ``auto``, and how each was chosen.

    Args:
        point: the configuration.
        facts: of the split.
        trained: the values of all keys that the model was trained with, by dotted key.
        share: the examples of an epoch, as a part of all examples of the histories.
        is_updated: whether the model itself was made by an update.

    Raises:
        ConfigError: the network is not the model's, or settings contradict each other.
    """
    fixed = {key: trained[key] for key in point.undecided if key not in SCHEDULE and key in trained}
    point = settled(point, fixed)
    decisions = [Decision(key, value, "the model has it") for key, value in fixed.items()]
    _refuse_other_network(point, trained)
    free = set(point.undecided)
    point, usual = decide(point, facts)
    decisions += [decision for decision in usual if decision.key not in SCHEDULE]
    epochs = max(1, round(PASSES / share))
    rate, reason = trained["train.learning_rate"], "the model, which is an update, was trained with it"
    if not is_updated:
        rate, reason = RATE * rate, f"the model was trained with {rate:g}"
    for key, value, why in (
        ("train.learning_rate", rate, reason),
        ("train.max_epochs", epochs, f"an epoch reads {share:.0%} of the examples"),
        ("train.patience", max(PATIENCE, math.ceil(epochs / 3)), f"there are {epochs} epochs"),
    ):
        if key in free:
            point = settled(replace(point, undecided=(key,)), {key: value})
            decisions.append(Decision(key, value, why))
    decisions += [decision for decision in usual if decision.key == "train.averaging"]
    return point, decisions


def _refuse_other_network(point: Config, trained: Mapping[str, Any]) -> None:
    found = as_written(point)
    for key in SHAPES:
        if found[key] != trained[key]:
            raise ConfigError(
                f"{key}: found {found[key]!r} with train.init_from={point.train.init_from}, allowed: "
                f"{trained[key]!r}, as that model has it, or auto"
            )
