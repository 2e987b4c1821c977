import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict

import pytest

from rec_models.config import LOSSES, BatchSettings, LossSettings, ModelSettings, SettingsError, TrainingSettings

EVERYTHING = {
    "num_negatives": 512,
    "sampling": "popularity",
    "alpha": 0.5,
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
    ("settings", "message"),
    [
        (lambda: ModelSettings(model="gru"), "model: found 'gru', allowed: sasrec | bert4rec"),
        (lambda: ModelSettings(hidden=65), "hidden: found 65, allowed: a multiple of heads = 2"),
        (lambda: ModelSettings(blocks=0), "blocks: found 0, allowed: a whole number from 1"),
        (lambda: ModelSettings(blocks=True), "blocks: found True, allowed: a whole number from 1"),
        (lambda: ModelSettings(dropout=1.0), "dropout: found 1.0, allowed: a number from 0 to below 1"),
        (lambda: ModelSettings(attention_dropout=-0.1), "attention_dropout: found -0.1, allowed: a number from 0 to"),
        (lambda: ModelSettings(scale_embeddings=2), "scale_embeddings: found 2, allowed: True or False"),
        (lambda: ModelSettings(activation="elu"), "activation: found 'elu', allowed: gelu | relu"),
        (lambda: ModelSettings(norm="rms"), "norm: found 'rms', allowed: pre | post"),
        (lambda: ModelSettings(max_seq_len=1), "max_seq_len: found 1, allowed: a whole number from 2"),
        (lambda: ModelSettings(mask_prob=0.0), "mask_prob: found 0.0, allowed: a number between 0 and 1"),
        (lambda: BatchSettings(batch_size=0), "batch_size: found 0, allowed: a whole number from 1"),
        (lambda: BatchSettings(batch_size=8, window=0), "window: found 0, allowed: a whole number from 1"),
        (lambda: LossSettings(loss="hinge"), "loss: found 'hinge', allowed: ce | ce_neg | cce"),
        (lambda: LossSettings(loss="cce", num_negatives=5), "num_negatives: found 5, allowed: None, because loss=cce"),
        (lambda: LossSettings(loss="sce", sharing="tile"), "sharing: found 'tile', allowed: None, because loss=sce"),
        (lambda: LossSettings(loss="ce", impl="triton"), "impl: found 'triton', allowed: None, because loss=ce"),
        (lambda: LossSettings(loss="ce_neg", num_negatives=5, gbce_t=0.1), "gbce_t: found 0.1, allowed: None"),
        (lambda: LossSettings(loss="bce", logq=True), "logq: found True, allowed: None, because loss=bce"),
        (lambda: LossSettings(loss="cce_neg"), "num_negatives: found None, allowed: a whole number from 1"),
        (lambda: LossSettings(loss="cce_neg", num_negatives=0), "num_negatives: found 0, allowed: a whole number"),
        (lambda: LossSettings(loss="bce", num_negatives=2), "num_negatives: found 2, allowed: 1 or None with loss=bce"),
        (
            lambda: LossSettings(loss="cce_neg", num_negatives=5, tile_tokens=8),
            "tile_tokens: found 8, allowed: None unless sharing=tile",
        ),
        (
            lambda: LossSettings(loss="cce_neg", num_negatives=5, alpha=1.0),
            "alpha: found 1.0, allowed: None unless sampling=popularity",
        ),
        (
            lambda: LossSettings(loss="cce_neg", num_negatives=5, logq=True),
            "logq: found True, allowed: None with sampling=uniform",
        ),
        (
            lambda: LossSettings(loss="cce_neg", num_negatives=5, sampling="popular"),
            "sampling: found 'popular', allowed: uniform | popularity | in_batch",
        ),
        (
            lambda: LossSettings(
                loss="cce_neg", num_negatives=5, sampling="popularity", logq=True, paper_faithful=True
            ),
            "logq: found True, allowed: False with paper_faithful",
        ),
        (
            lambda: LossSettings(loss="cce_neg", num_negatives=5, sharing="tile", paper_faithful=True),
            "sharing: found 'tile', allowed: none with paper_faithful",
        ),
        (
            lambda: LossSettings(loss="bce", sharing="tile", tile_tokens=2048),
            "tile_tokens: found 2048, allowed: at most 1024",
        ),
        (
            lambda: LossSettings(loss="gbce", num_negatives=5).check_catalogue(5, None),
            "num_negatives: found 5, allowed: at most 4 with loss=gbce and 5 items",
        ),
        (
            lambda: LossSettings(loss="bce", sampling="popularity").check_catalogue(5, None),
            "item_counts: found None, allowed: 5 counts, for sampling=popularity",
        ),
        (
            lambda: LossSettings(loss="bce", sampling="popularity").check_catalogue(5, 4),
            "item_counts: found 4, allowed: 5 counts, for sampling=popularity",
        ),
        (lambda: LossSettings(loss="gbce", num_negatives=5, gbce_t=1.5), "gbce_t: found 1.5, allowed: a number from 0"),
        (lambda: LossSettings(loss="gbce", num_negatives=5, gbce_t="x"), "gbce_t: found 'x', allowed: a number from 0"),
        (lambda: LossSettings(loss="cce", paper_faithful="no"), "paper_faithful: found 'no', allowed: True or False"),
        (lambda: LossSettings(loss="sce", sce_mix_x="no"), "sce_mix_x: found 'no', allowed: True or False"),
        (
            lambda: LossSettings(loss="bce", sampling="popularity", alpha="a"),
            "alpha: found 'a', allowed: a number from 0",
        ),
        (
            lambda: LossSettings(loss="bce", sampling="popularity", alpha=float("nan")),
            "alpha: found nan, allowed: a number from 0",
        ),
        (
            lambda: LossSettings(loss="ce_neg", num_negatives=5, sampling="in_batch", logq="yes"),
            "logq: found 'yes', allowed: True or False",
        ),
        (
            lambda: LossSettings(loss="bce", sharing="tile", tile_tokens="8"),
            "tile_tokens: found '8', allowed: a whole number from 1",
        ),
        (lambda: LossSettings.pick("cce", size=3), "setting: found 'size', allowed: alpha, gbce_t"),
        (lambda: TrainingSettings(patience=0), "patience: found 0, allowed: a whole number from 1"),
        (lambda: TrainingSettings(learning_rate=0.0), "learning_rate: found 0.0, allowed: a finite number above 0"),
        (lambda: TrainingSettings(learning_rate="1e-3"), "learning_rate: found '1e-3', allowed: a finite number"),
        (lambda: TrainingSettings(learning_rate=float("inf")), "learning_rate: found inf, allowed: a finite number"),
        (lambda: TrainingSettings(compile="no"), "compile: found 'no', allowed: True or False"),
        (lambda: TrainingSettings(seed=True), "seed: found True, allowed: a whole number from 0"),
        (lambda: ModelSettings(dropout="0.1"), "dropout: found '0.1', allowed: a number from 0 to below 1"),
        (lambda: TrainingSettings(precision="8-bit"), "precision: found '8-bit', allowed: bf16-mixed | 16-mixed"),
        (lambda: TrainingSettings(seed=-1), "seed: found -1, allowed: a whole number from 0 to 4294967295"),
        (lambda: TrainingSettings(checkpoint_seconds=0), "checkpoint_seconds: found 0, allowed: a number above 0"),
        (lambda: TrainingSettings(optimizer="sgd"), "optimizer: found 'sgd', allowed: adam | adam_bf16 | adam_rowwise"),
        (lambda: TrainingSettings(optimizer="adam_lazy", devices=2), "devices: found 2, allowed: 1 with optimizer="),
        (
            lambda: TrainingSettings(optimizer="adam_lazy", weight_decay=0.1),
            "weight_decay: found 0.1, allowed: 0 with optimizer=adam_lazy",
        ),
        (lambda: TrainingSettings(cuda_graphs="yes"), "cuda_graphs: found 'yes', allowed: True | False | auto"),
        (lambda: TrainingSettings(cuda_graphs=True, devices=2), "devices: found 2, allowed: 1 with cuda_graphs=True"),
        (lambda: TrainingSettings(cuda_graphs=True, accumulate=2), "accumulate: found 2, allowed: 1 with cuda_g"),
        (
            lambda: TrainingSettings(cuda_graphs=True, precision="16-mixed"),
            "precision: found '16-mixed', allowed: bf16-mixed with cuda_graphs=True",
        ),
        (
            lambda: TrainingSettings(cuda_graphs=True, optimizer="adam_lazy"),
            "optimizer: found 'adam_lazy', allowed: another one with cuda_graphs=True",
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
            lambda: LAZY.check_loss(LossSettings(loss="ce_neg", num_negatives=5)),
            "optimizer: found 'adam_lazy' with loss=ce_neg, allowed: adam | adam_bf16 | adam_rowwise",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings, message):
    with pytest.raises(SettingsError) as error:
        settings()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sampling", ["uniform", "popularity", "in_batch"])
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("paper_faithful", [False, True])
def test_pick_keeps_what_each_loss_uses(loss, sampling, sharing, paper_faithful):
    everything = EVERYTHING | {"sampling": sampling, "sharing": sharing, "paper_faithful": paper_faithful}
    picked = asdict(LossSettings.pick(loss, **everything))
    assert LossSettings(**picked) == LossSettings.pick(loss, **everything)
    assert picked["num_negatives"] == {"ce": None, "cce": None, "sce": None, "bce": 1}.get(loss, 512)
    sampled = loss in ("ce_neg", "cce_neg", "bce", "bce_neg", "gbce")
    assert picked["sampling"] == (sampling if sampled else None)
    assert picked["sharing"] == (("none" if paper_faithful else sharing) if sampled else None)
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
    [{"devices": 2}, {"accumulate": 2}, {"precision": "32-true"}, {"optimizer": "adam_lazy"}, {"cuda_graphs": False}],
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
