"""The settings of an update: the network is the model's, the schedule is short, and stated keys stay."""

import numpy as np
import pytest

from cutrec.config import from_mapping, model_settings, read_yaml
from cutrec.config_point import Config, as_written
from cutrec.decide import Facts, decide
from cutrec.decide_update import EPOCHS, LEARNING_RATE, decide_update, for_update
from cutrec.errors import ConfigError
from cutrec.nested import nest
from tests.small_log import ROOT

FACTS = Facts.of(500, np.full(1000, 8))


def of_update(**changes: object) -> Config:
    """The shipped point as an update, with some keys stated."""
    return from_mapping(nest(as_written(for_update(shipped())) | changes))


def shipped() -> Config:
    return from_mapping(read_yaml(ROOT / "params.yaml"))


@pytest.fixture(scope="module")
def trained() -> dict:
    """What a model of another, longer log was trained with."""
    return as_written(decide(shipped(), Facts.of(500, np.full(1000, 40)))[0])


def test_the_network_is_that_of_the_model_and_training_is_short(trained: dict):
    point, decisions = decide_update(of_update(), FACTS, trained, 0.25)
    for key in ("loss", "backbone.hidden", "backbone.blocks", "max_seq_len", "batch_size", "train.window"):
        assert as_written(point)[key] == trained[key]
    assert model_settings(point).hidden == trained["backbone.hidden"]
    assert {decision.key for decision in decisions} >= {"train.max_epochs", "train.learning_rate", "backbone.hidden"}
    assert point.train.learning_rate == trained["train.learning_rate"] == LEARNING_RATE
    slower = decide_update(of_update(), FACTS, trained | {"train.learning_rate": 1e-4}, 0.25)[0]
    assert slower.train.learning_rate == LEARNING_RATE
    assert point.train.max_epochs == decide_update(of_update(), FACTS, trained, 1.0)[0].train.max_epochs == EPOCHS
    assert decide_update(of_update(), FACTS, trained, None)[0].train.max_epochs == trained["train.max_epochs"]


def test_stated_keys_stay_and_another_network_is_refused(trained: dict):
    assert decide_update(of_update(**{"train.max_epochs": 7}), FACTS, trained, 0.25)[0].train.max_epochs == 7
    other = of_update(**{"backbone.hidden": 64, "train.init_from": "model"})
    with pytest.raises(ConfigError, match=r"^backbone.hidden: found 64 with train.init_from=model, allowed: 128, as "):
        decide_update(other, FACTS, trained, 0.25)
