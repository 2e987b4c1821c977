import itertools
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from rec_models.config import LOSSES, BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import CheckpointError, SettingsError
from rec_models.losses import SAMPLERS
from rec_models.training import checkpoint

EVERYTHING = {
    "num_negatives": 512,
    "sampling": "popularity",
    "alpha": 0.5,
    "catalogue_share": 0.25,
    "logq": True,
    "sharing": "tile",
    "tile_tokens": 32,
    "gbce_t": 0.5,
    "sce_buckets": 10,
    "sce_bucket_size_x": 11,
    "sce_bucket_size_y": 12,
    "sce_mix_x": False,
    "impl": "reference",
}
GRAPHS, LAZY = TrainingSettings(cuda_graphs=True), TrainingSettings(optimizer="adam_lazy")


def test_settings_need_no_torch():
    code = "import rec_models.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (ModelSettings, {"model": "gru"}),
        (ModelSettings, {"blocks": 0}),
        (ModelSettings, {"blocks": True}),
        (ModelSettings, {"dropout": 1.0}),
        (ModelSettings, {"dropout": "0.1"}),
        (ModelSettings, {"attention_dropout": -0.1}),
        (ModelSettings, {"scale_embeddings": 2}),
        (ModelSettings, {"activation": "elu"}),
        (ModelSettings, {"initialization": "kaiming"}),
        (ModelSettings, {"norm": "rms"}),
        (ModelSettings, {"max_seq_len": 1}),
        (ModelSettings, {"mask_prob": 0.0}),
        (BatchSettings, {"batch_size": 0}),
        (BatchSettings, {"window": 0, "batch_size": 8}),
        (LossSettings, {"loss": "hinge"}),
        (LossSettings, {"num_negatives": 0}),
        (LossSettings, {"sampling": "popular", "num_negatives": 5}),
        (LossSettings, {"tile_tokens": 2048, "loss": "bce", "sharing": "tile"}),
        (LossSettings, {"tile_tokens": "8", "loss": "bce", "sharing": "tile"}),
        (LossSettings, {"gbce_t": 1.5, "loss": "gbce", "num_negatives": 5}),
        (LossSettings, {"gbce_t": "x", "loss": "gbce", "num_negatives": 5}),
        (LossSettings, {"paper_faithful": "no", "loss": "cce"}),
        (LossSettings, {"sce_mix_x": "no", "loss": "sce"}),
        (LossSettings, {"alpha": "a", "loss": "bce", "sampling": "popularity"}),
        (LossSettings, {"alpha": float("nan"), "loss": "bce", "sampling": "popularity"}),
        (LossSettings, {"logq": "yes", "num_negatives": 5, "sampling": "in_batch"}),
        (LossSettings, {"size": 3, "loss": "cce"}),
        (TrainingSettings, {"patience": 0}),
        (TrainingSettings, {"learning_rate": 0.0}),
        (TrainingSettings, {"learning_rate": "1e-3"}),
        (TrainingSettings, {"learning_rate": float("inf")}),
        (TrainingSettings, {"weight_decay": -1.0}),
        (TrainingSettings, {"compile": "no"}),
        (TrainingSettings, {"seed": True}),
        (TrainingSettings, {"seed": -1}),
        (TrainingSettings, {"seed": 2**32}),
        (TrainingSettings, {"precision": "8-bit"}),
        (TrainingSettings, {"checkpoint_seconds": 0}),
        (TrainingSettings, {"checkpoint_steps": 0}),
        (TrainingSettings, {"optimizer": "sgd"}),
        (TrainingSettings, {"cuda_graphs": "yes"}),
    ],
)
def test_a_wrong_value_is_a_value_error_at_its_name(cls, values):
    name = next(iter(values))
    with pytest.raises(ValueError, match=name) as caught:
        cls(**values)
    assert {error["loc"][0] for error in caught.value.errors()} == {name}


def test_pick_refuses_what_is_unknown():
    for loss, options, named in (("cce", {"size": 3}, "size"), ("hinge", {}, "loss")):
        with pytest.raises(ValueError, match=named):
            LossSettings.pick(loss, **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: ModelSettings(hidden=65), "hidden: found 65 with heads=2, allowed: a multiple of 2"),
        (
            lambda: LossSettings(loss="cce", num_negatives=5),
            "num_negatives: found 5 with loss=cce, allowed: None, because it is not used",
        ),
        (lambda: LossSettings(loss="sce", sharing="tile"), "sharing: found 'tile' with loss=sce, allowed: None"),
        (lambda: LossSettings(loss="ce", impl="triton"), "impl: found 'triton' with loss=ce, allowed: None"),
        (lambda: LossSettings(loss="ce_neg", num_negatives=5, gbce_t=0.1), "gbce_t: found 0.1 with loss=ce_neg"),
        (lambda: LossSettings(loss="bce", logq=True), "logq: found True with loss=bce, allowed: None"),
        (lambda: LossSettings(), "num_negatives: found None with loss=cce_neg, allowed: a whole number from 1"),
        (lambda: LossSettings(loss="bce", num_negatives=2), "num_negatives: found 2 with loss=bce, allowed: 1"),
        (
            lambda: LossSettings(num_negatives=5, tile_tokens=8),
            "tile_tokens: found 8 with sharing=none, allowed: None",
        ),
        (lambda: LossSettings(num_negatives=5, alpha=1.0), "alpha: found 1.0 with sampling=uniform, allowed: None"),
        (lambda: LossSettings(num_negatives=5, logq=True), "logq: found True with sampling=uniform, allowed: None"),
        (
            lambda: LossSettings(num_negatives=5, sampling="popularity", logq=True, paper_faithful=True),
            "logq: found True with paper_faithful=True, allowed: False",
        ),
        (
            lambda: LossSettings(num_negatives=5, sharing="tile", paper_faithful=True),
            "sharing: found 'tile' with paper_faithful=True, allowed: none",
        ),
        (
            lambda: LossSettings(loss="gbce", num_negatives=5).check_catalogue(5, None),
            "num_negatives: found 5 with loss=gbce, allowed: at most 4 of 5 items",
        ),
        (
            lambda: LossSettings(loss="bce", sampling="popularity").check_catalogue(5, None),
            "item_counts: found None with sampling=popularity, allowed: 5 counts",
        ),
        (
            lambda: LossSettings(loss="bce", sampling="popularity").check_catalogue(5, 4),
            "item_counts: found 4 with sampling=popularity, allowed: 5 counts",
        ),
        (
            lambda: TrainingSettings(optimizer="adam_lazy", weight_decay=0.1),
            "weight_decay: found 0.1 with optimizer=adam_lazy, allowed: 0",
        ),
        (lambda: TrainingSettings(cuda_graphs=True, accumulate=2), "accumulate: found 2 with cuda_graphs=True"),
        (
            lambda: TrainingSettings(cuda_graphs=True, precision="16-mixed"),
            "precision: found '16-mixed' with cuda_graphs=True, allowed: bf16-mixed",
        ),
        (
            lambda: GRAPHS.check_loss(LossSettings(loss="ce")),
            "cuda_graphs: found True with loss=ce, allowed: auto | False",
        ),
        (
            lambda: GRAPHS.check_loss(LossSettings(loss="cce", impl="reference")),
            "cuda_graphs: found True with impl=reference, allowed: auto | False",
        ),
        (
            lambda: GRAPHS.check_loss(LossSettings(loss="bce", paper_faithful=True)),
            "cuda_graphs: found True with paper_faithful=True, allowed: auto | False",
        ),
        (
            lambda: LAZY.check_loss(LossSettings(loss="cce")),
            "optimizer: found 'adam_lazy' with loss=cce, allowed: adam | adam_bf16 | adam_rowwise",
        ),
        (
            lambda: LAZY.check_loss(LossSettings(loss="ce")),
            "optimizer: found 'adam_lazy' with loss=ce, allowed: adam | adam_bf16 | adam_rowwise",
        ),
    ],
)
def test_a_contradiction_is_one_line_that_names_both_settings(settings, message):
    with pytest.raises(ValueError, match="found") as caught:
        settings()
    error = caught.value
    cause = error.errors()[0]["ctx"]["error"] if isinstance(error, ValidationError) else error
    assert isinstance(cause, SettingsError)
    assert str(cause).startswith(message)
    assert "\n" not in str(cause)


@pytest.mark.parametrize("loss", LOSSES)
def test_pick_keeps_what_each_loss_uses(loss):
    ways = itertools.product(list(SAMPLERS), ["none", "tile", "batch"], [False, True])
    for sampling, sharing, paper_faithful in ways:
        everything = EVERYTHING | {"sampling": sampling, "sharing": sharing, "paper_faithful": paper_faithful}
        picked = asdict(LossSettings.pick(loss, **everything))
        assert picked.keys() == {*OLD["loss"], "catalogue_share"}
        assert LossSettings(**picked) == LossSettings.pick(loss, **everything)
        assert picked["num_negatives"] == {"ce": None, "cce": None, "sce": None, "bce": 1}.get(loss, 512)
        sampled = loss in ("ce_neg", "cce_neg", "bce", "bce_neg", "gbce")
        assert picked["sampling"] == (sampling if sampled else None)
        assert picked["sharing"] == (("none" if paper_faithful else sharing) if sampled else None)
        assert picked["alpha"] == (0.5 if sampled and sampling.endswith("popularity") else None)
        assert picked["catalogue_share"] == (0.25 if sampled and sampling.startswith("mixed") else None)
        assert picked["tile_tokens"] == (32 if picked["sharing"] == "tile" else None)
        assert picked["gbce_t"] == (0.5 if loss == "gbce" else None)
        assert picked["sce_buckets"] == (10 if loss == "sce" else None)
        softmax = loss in ("ce_neg", "cce_neg") and sampling != "uniform"
        assert picked["logq"] == ((not paper_faithful) if softmax else None)


def test_a_catalogue_that_fits_passes():
    LossSettings(loss="gbce", num_negatives=4).check_catalogue(5, None)
    LossSettings(loss="cce_neg", num_negatives=100).check_catalogue(5, None)
    LossSettings(loss="bce", sampling="popularity").check_catalogue(5, 5)


def test_a_loss_that_fits_passes():
    for loss in ("cce", "cce_neg", "bce", "bce_neg", "gbce"):
        GRAPHS.check_loss(LossSettings.pick(loss, num_negatives=5))
        if loss != "cce":
            LAZY.check_loss(LossSettings.pick(loss, num_negatives=5))


@pytest.mark.parametrize(
    "training",
    [{"devices": 2}, {"accumulate": 2}, {"precision": "32-true"}, {"cuda_graphs": False}],
)
def test_steps_are_recorded_where_they_can_be(training):
    cce, own = LossSettings(loss="cce"), TrainingSettings()
    assert own.records_steps(cce)
    assert TrainingSettings(cuda_graphs=True).records_steps(cce)
    assert not TrainingSettings(**training).records_steps(cce)
    for options in ({"loss": "ce"}, {"loss": "cce", "impl": "reference"}, {"loss": "cce", "paper_faithful": True}):
        loss = LossSettings(**options)
        own.check_loss(loss)
        assert not own.records_steps(loss)


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        ModelSettings().hidden = 3


OLD = {
      "model": {
        "model": "sasrec", "blocks": 1, "heads": 2, "hidden": 8, "dropout": 0.1, "attention_dropout": 0.0,
        "scale_embeddings": False, "activation": "gelu", "norm": "pre", "max_seq_len": 64, "mask_prob": 0.15,
    },
    "loss": {
        "loss": "gbce", "num_negatives": 16, "sampling": "popularity", "alpha": 1, "logq": None, "sharing": "tile",
        "tile_tokens": 64, "gbce_t": 0.75, "sce_buckets": None, "sce_bucket_size_x": None, "sce_bucket_size_y": None,
        "sce_mix_x": None, "impl": "auto", "paper_faithful": False,
    },
    "training": {
        "max_epochs": 20, "patience": 4, "learning_rate": 0.001, "weight_decay": 0, "optimizer": "adam",
        "precision": "bf16-mixed", "accelerator": "auto", "devices": 1, "compile": False, "cuda_graphs": "auto",
        "accumulate": 1, "seed": 42, "checkpoint_seconds": 60.0, "checkpoint_steps": None,
    },
    "num_items": 5, "epoch": 2, "metrics": {"ndcg@10": 0.5}, "weights": {},
    "batching": {"batch_size": 128, "window": None},
}  # fmt: skip
"""A model.ckpt as version 0.1 wrote it."""


def test_a_file_of_an_older_version_loads_and_is_written_back_with_new_settings(tmp_path):
    torch.save({**OLD, "format": checkpoint._OLD_MODEL_FORMAT}, tmp_path / "model.ckpt")
    model = checkpoint.ModelCheckpoint.read(tmp_path / "model.ckpt")
    assert (model.loss.gbce_t, model.loss.impl, model.training.seed) == (0.75, "auto", 42)
    model.save(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        header = file.metadata()
    expected = {**OLD, "model": OLD["model"] | {"initialization": "normal"}}
    expected["training"] = OLD["training"] | {"averaging": 0.0, "table": "replicated"}  # newer settings
    expected["loss"] = OLD["loss"] | {"catalogue_share": None}
    del expected["weights"]
    assert header.pop("format") == "rec_models.model/2"
    assert {name: json.loads(text) for name, text in header.items()} == expected
    assert checkpoint.ModelCheckpoint.read(tmp_path / "model.safetensors") == model


def test_a_setting_that_an_old_file_lacks_has_its_default_and_an_unknown_one_is_one_line(tmp_path):
    for settings, name in (({"model": "sasrec"}, "old"), ({"model": "sasrec", "rotary": True}, "newer")):
        torch.save({**OLD, "format": checkpoint._OLD_MODEL_FORMAT, "model": settings}, tmp_path / name)
    assert checkpoint.ModelCheckpoint.read(tmp_path / "old").model == ModelSettings()
    with pytest.raises(CheckpointError, match="rotary") as caught:
        checkpoint.ModelCheckpoint.read(tmp_path / "newer")
    assert "\n" not in str(caught.value)
