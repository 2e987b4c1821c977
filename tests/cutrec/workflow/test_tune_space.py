"""The space of `cutrec tune`: around the decided defaults, without what params.yaml states."""

import random
from typing import Any

import numpy as np
import pytest

from cutrec.config import from_mapping, refuse_contradictions
from cutrec.config_point import AUTO_KEYS, Config, as_written
from cutrec.decide import Facts, decide
from cutrec.nested import nest
from cutrec.workflow.tune_space import Space, space_of

SHORT = Facts.of(11_924, np.tile(np.array([4, 8, 12, 30]), 50))
LONG = Facts.of(3_416, np.tile(np.array([60, 150, 400, 900]), 50))
HUGE = Facts.of(800_000, np.tile(np.array([60, 150, 400, 900]), 50))


def asked(**stated: Any) -> Config:
    """A point whose keys are auto where they can be, but for those stated (``train__window=8``)."""
    given = {key.replace("__", "."): value for key, value in stated.items()}
    return from_mapping(nest(dict.fromkeys(AUTO_KEYS, "auto") | given))


def values_of(space: Space, name: str) -> list[Any]:
    return list(space.axes[name])


@pytest.mark.parametrize("facts", [SHORT, LONG, HUGE])
@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_the_first_trial_has_the_decided_defaults(facts: Facts, model: str):
    point = asked(model=model)
    space = space_of(point, facts)
    assert space.at(space.settings(space.first)) == space.point == decide(point, facts)[0]


@pytest.mark.parametrize("facts", [SHORT, LONG, HUGE])
@pytest.mark.parametrize(
    "stated", [{}, {"model": "bert4rec"}, {"train__window": 40}, {"backbone__heads": 3, "backbone__hidden": 48}]
)
def test_every_setting_can_be_trained(facts: Facts, stated: dict[str, Any]):
    space, draw = space_of(asked(**stated), facts), random.Random(0)
    for _ in range(100):
        point = space.at(space.settings({name: draw.randrange(len(axis)) for name, axis in space.axes.items()}))
        refuse_contradictions(point)
        assert point.undecided == ()
        assert all(as_written(point)[key.replace("__", ".")] == value for key, value in stated.items())


def test_stated_keys_and_changed_defaults_are_not_searched():
    free = space_of(asked(), SHORT).axes
    assert {"loss", "batch_size", "backbone.dropout", "backbone.blocks"} <= set(free)
    fixed = space_of(asked(loss="cce", batch_size=64, backbone__dropout=0.35, backbone__blocks=3), SHORT).axes
    assert set(fixed) == set(free) - {"loss", "batch_size", "backbone.dropout", "backbone.blocks"}


def test_a_sampled_loss_is_tried_where_the_catalogue_is_large():
    """From few negatives to all items; the exact loss is left out where it is expensive."""
    assert "loss" not in space_of(asked(), LONG).axes
    assert values_of(space_of(asked(), SHORT), "loss") == [
        *({"loss": "cce_neg", "num_negatives": count} for count in (512, 1024, 2048, 4096)),
        {"loss": "cce"},
    ]
    assert {loss["loss"] for loss in values_of(space_of(asked(), HUGE), "loss")} == {"cce_neg"}
    assert values_of(space_of(asked(num_negatives=300), SHORT), "loss") == [
        {"loss": "cce_neg", "num_negatives": 300},
        {"loss": "cce"},
    ]
    assert [loss["loss"] for loss in values_of(space_of(asked(loss="gbce"), SHORT), "loss")] == ["gbce"] * 5
    assert "loss" not in space_of(asked(loss="bce"), SHORT).axes


def test_windows_are_tried_where_histories_are_long():
    """A window is a share of the length that is tried beside it."""
    assert "train.window" not in space_of(asked(max_seq_len=32), SHORT).axes
    space = space_of(asked(), LONG)
    assert values_of(space, "max_seq_len") == [100, 200, 400]
    places = space.first | {"max_seq_len": 0}
    windows = [space.settings(places | {"train.window": place})["train.window"] for place in (0, 1)]
    assert windows == [None, 50]
    assert min(values_of(space_of(asked(train__window=120), LONG), "max_seq_len")) >= 120


def test_batches_are_near_the_decided_size():
    assert values_of(space_of(asked(), SHORT), "batch_size") == [64, 128, 256]
    many = Facts.of(11_924, np.tile(SHORT.lengths, 100))
    assert values_of(space_of(asked(), many), "batch_size") == [64, 128, 256, 512, 1024]
