"""The settings that a result names because they differ from the standard ones: all that training reads, no others."""

import dataclasses
import itertools
from typing import Any

import pytest

from cutrec import config
from cutrec.config import from_mapping, loss_settings, model_settings, training_settings
from cutrec.config_point import Config
from cutrec.nested import flatten, nest
from cutrec.reporting.result import Result
from cutrec.reporting.standard_settings import options
from pipelines.paper import points
from rec_models.losses.registry import LOSSES
from tests.small_log import ROOT

SHIPPED = config.read_yaml(ROOT / "params.yaml")


def point(flat: dict[str, Any]) -> Config:
    return from_mapping(nest(flat))


def test_every_point_of_the_tables_has_the_standard_settings():
    for sharing, faithful, twin in (("none", False, False), ("tile", False, True), ("none", True, 0.5)):
        for row in points.table_points(SHIPPED, twin=twin, sharing=sharing, paper_faithful=faithful):
            assert options(row.params) is None, row.name


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"train.learning_rate": 0.0003, "backbone.dropout": 0.3}, "dropout=0.3;learning_rate=0.0003"),
        ({"backbone.blocks": 3, "backbone.heads": 4}, "blocks=3;heads=4"),
        ({"train.weight_decay": 0.1, "train.max_epochs": 1}, "max_epochs=1;weight_decay=0.1"),
        ({"train.window": 8, "train.accumulate": 2, "train.devices": 2}, "accumulate=2;devices=2;window=8"),
        ({"negatives.tile_tokens": 32}, "tile_tokens=32"),
        ({"negatives.sampling": "popularity", "negatives.alpha": 0.5}, "alpha=0.5"),
        (
            {"split.strategy": "leave_one_out", "evaluate.filter_seen": False},
            "filter_seen=false;strategy=leave_one_out",
        ),
        ({"evaluate.reference": "train", "impl": "reference"}, "impl=reference;reference=train"),
        ({"download.ties": "shuffle", "download.duplicates": "drop"}, "duplicates=drop;ties=shuffle"),
        ({"model": "bert4rec"}, "weight_decay=0.0"),
        ({"model": "bert4rec", "train.weight_decay": 1e-5, "backbone.mask_prob": 0.2}, "mask_prob=0.2"),
        ({"loss": "gbce", "losses.gbce.t": 0.5}, "gbce.t=0.5"),
        ({"loss": "sce"}, "sce.bucket_size_x=443;sce.buckets=443"),
        ({"backbone.mask_prob": 0.2, "losses.gbce.t": 0.5, "negatives.alpha": 0.5, "download.mirror": "x"}, None),
    ],
)
def test_settings_that_differ_are_named(changed: dict[str, Any], told: str | None):
    usual = {"evaluate.reference": "test_input", "download.ties": "row_order"}
    assert options(point({**usual, **changed})) == told


def test_two_runs_that_differ_in_a_setting_of_training_are_two_points():
    """Of every loss and way to draw: what changes the settings of training changes the key of the result."""
    changes: dict[str, Any] = {
        "impl": "reference", "num_negatives": 7, "negatives.alpha": 0.5, "negatives.logq": False,
        "negatives.catalogue_share": 0.25,
        "negatives.tile_tokens": 32, "losses.gbce.t": 0.1, "losses.sce.buckets": 7, "losses.sce.bucket_size_x": 7,
        "losses.sce.bucket_size_y": 7, "losses.sce.mix_x": False, "backbone.dropout": 0.3, "backbone.blocks": 1,
        "train.learning_rate": 0.5, "train.accumulate": 3, "train.max_epochs": 3, "train.compile": True,
    }  # fmt: skip
    sampled = [name for name, loss in LOSSES.items() if loss.sampled]
    ways = itertools.product(sampled, ("uniform", "popularity", "in_batch", "mixed"), ("none", "tile"), (False, True))
    cases = [*ways, *((loss, "uniform", "tile", False) for loss in ("ce", "cce", "sce"))]
    makers = (loss_settings, model_settings, training_settings)
    for loss, sampling, sharing, faithful in cases:
        base = {
            "loss": loss, "paper_faithful": faithful, "negatives.sampling": sampling, "negatives.sharing": sharing,
        }  # fmt: skip
        found = []
        for change in ({}, *({key: value} for key, value in changes.items())):
            one = point(base | change)
            found.append(([make(one) for make in makers], Result.of(one, "training", device="x").key))
        (settings, key), *others = found
        for (other_settings, other_key), name in zip(others, changes, strict=True):
            assert (settings != other_settings) == (key != other_key), (base, name)


def test_every_key_has_a_short_name_of_its_own():
    keys = list(flatten(dataclasses.asdict(Config())))
    short = [key.partition(".")[2] or key for key in keys]
    assert len(set(short)) == len(keys)
