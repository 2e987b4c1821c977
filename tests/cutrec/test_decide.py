"""The rules for ``auto``: what they decide for logs of several shapes, that explicit values win, and the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutrec.config import from_mapping, preset_values, read_yaml, refuse_contradictions
from cutrec.config_point import AUTO_KEYS, Config, as_written
from cutrec.decide import (
    EXACT_ITEMS,
    PATIENCE,
    POINTWISE_EPOCHS,
    POINTWISE_PATIENCE,
    Decision,
    Facts,
    decide,
    read_decisions,
    write_decisions,
)
from cutrec.errors import ConfigError
from cutrec.nested import merged, nest
from tests.small_log import ROOT

AUTO: dict[str, Any] = nest(dict.fromkeys(AUTO_KEYS, "auto"))
SPARSE = Facts.of(11_924, np.repeat([3, 8, 40], [10_000, 9_600, 400]))
DENSE = Facts.of(3_416, np.repeat([30, 160, 900], [600, 300, 100]))
FEW = Facts.of(3_416, np.repeat([30, 160], [600, 300]))
HUGE = Facts.of(EXACT_ITEMS + 1, np.full(300_000, 12))
VAST = Facts.of(20_000_000, np.full(1_000_000, 12))
EMPTY = Facts.of(3, np.array([1]))


def decided(facts: Facts, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """All values of a point whose other keys are auto, and those that were decisions."""
    point, decisions = decide(from_mapping(merged(AUTO, nest(changes))), facts)
    return as_written(point), {key: value for key, value, _ in decisions}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            SPARSE,
            {"loss": "cce", "batch_size": 256, "max_seq_len": 40, "backbone.hidden": 256, "train.window": None,
             "train.patience": 6, "train.averaging": 3.0},
        ),
        (
            DENSE,
            {"loss": "cce", "batch_size": 64, "max_seq_len": 200, "backbone.blocks": 3, "backbone.hidden": 128,
             "train.window": 100},
        ),
        (FEW, {"batch_size": 64, "max_seq_len": 160, "train.window": None}),
        (
            HUGE,
            {"loss": "cce_neg", "num_negatives": 2048, "max_seq_len": 16, "batch_size": 1024, "backbone.hidden": 256,
             "train.patience": 4, "train.averaging": 1.0},
        ),
        (VAST, {"loss": "cce_neg", "batch_size": 1024, "backbone.hidden": 64, "train.patience": 3,
                "train.averaging": 0.0}),
        (EMPTY, {"loss": "cce", "max_seq_len": 16, "train.window": None}),
    ],
)  # fmt: skip
def test_a_log_decides_the_settings(facts: Facts, expected: dict[str, Any]):
    values, decisions = decided(facts)
    assert expected.items() <= decisions.items() <= values.items()
    assert "auto" not in {values[key] for key in AUTO_KEYS}


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
@pytest.mark.parametrize("loss", ["auto", "ce", "ce_neg", "cce_neg", "bce", "bce_neg", "gbce", "sce"])
@pytest.mark.parametrize("facts", [SPARSE, DENSE, HUGE, EMPTY])
def test_every_loss_gets_settings_that_go_together(model: str, loss: str, facts: Facts):
    point, decisions = decide(from_mapping(merged(AUTO, {"model": model, "loss": loss})), facts)
    assert not point.undecided
    refuse_contradictions(point)
    sampled = point.loss in ("ce_neg", "cce_neg", "bce_neg", "gbce")
    found = [decision.key for decision in decisions]
    assert ("num_negatives" in found) == sampled
    assert ("backbone.mask_prob" in found) == (model == "bert4rec")
    if sampled:
        assert point.num_negatives < max(2, facts.items)


def test_explicit_values_win_and_the_other_rules_follow_them():
    values, decisions = decided(
        DENSE, **{"loss": "gbce", "max_seq_len": 1000, "train.accumulate": 2, "backbone.dropout": 0.0}
    )
    assert (values["loss"], values["max_seq_len"], values["backbone.dropout"]) == ("gbce", 1000, 0.0)
    assert (decisions["num_negatives"], decisions["train.window"]) == (256, None)
    # Few steps in an epoch, and a loss that starts slowly.
    assert (decisions["train.patience"], decisions["train.max_epochs"]) == (POINTWISE_PATIENCE, POINTWISE_EPOCHS)
    assert not {"loss", "max_seq_len", "backbone.dropout"} & decisions.keys()
    assert decided(DENSE, **{"train.window": None})[0]["train.window"] is None
    assert decided(SPARSE, **{"train.window": 48})[0]["max_seq_len"] == 48


@pytest.mark.parametrize(
    ("name", "lengths"), [("sparse", [3, 8, 41]), ("dense", [30, 60, 195]), ("long", [30, 160, 1600])]
)
def test_the_presets_of_kinds_of_logs_are_what_the_rules_decide(name: str, lengths: list[int]):
    values, decisions = decided(Facts.of(3_416, np.repeat(lengths, [4000, 3840, 160])))
    preset = preset_values(name, read_yaml(ROOT / "params.yaml")["presets"][name])
    assert preset == {key: values[key] for key in decisions}


def test_a_decision_that_an_explicit_value_contradicts_is_refused():
    lazy = nest({"train.optimizer": "adam_lazy"})
    decide(from_mapping(merged(AUTO, lazy)), HUGE)
    with pytest.raises(ConfigError, match=r"train.optimizer: found 'adam_lazy' with loss=cce, allowed: adam"):
        decide(from_mapping(merged(AUTO, lazy)), SPARSE)


def test_patience_counts_the_epochs_of_a_sample():
    whole = Facts(100, np.full(64_000, 8), 64_000)
    sample = replace(whole, lengths=whole.lengths[:100])
    point = from_mapping({"batch_size": 256, "train": {"patience": "auto"}})
    assert [decide(point, facts)[0].train.patience for facts in (whole, sample)] == [4, 4]  # of 250 steps each
    slow = replace(point, loss="gbce", num_negatives=16)
    assert decide(slow, whole)[0].train.patience == 8
    assert decide(slow, replace(whole, users=6_400))[0].train.patience == 40  # of 25 steps
    assert decide(slow, replace(whole, users=25_600))[0].train.patience == 2 * PATIENCE[1]  # of 100


def test_what_was_decided_is_read_back(tmp_path: Path):
    asked = from_mapping(merged(AUTO, {"loss": "cce", "train": {"window": 3}}))
    point, decisions = decide(asked, DENSE)
    write_decisions(tmp_path / "settings.yaml", decisions)
    assert read_decisions(asked, tmp_path / "settings.yaml") == point
    assert read_decisions(Config(), tmp_path / "none.yaml") == Config()
    # Another run's explicit value is not replaced.
    other = replace(asked, batch_size=7, undecided=tuple(key for key in asked.undecided if key != "batch_size"))
    assert read_decisions(other, tmp_path / "settings.yaml").batch_size == 7


def test_a_decision_reads_as_a_sentence():
    assert str(Decision("train.window", None, "it is short")) == "train.window: none, because it is short"
    assert str(Decision("backbone.scale_embeddings", True, "x")) == "backbone.scale_embeddings: true, because x"
