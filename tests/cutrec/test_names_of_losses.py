"""Every place that names the losses names all of them, as CONTRIBUTING lists them."""

import typing

import pytest

from cutrec import config as params
from cutrec import losses
from rec_models import config as loss_settings
from rec_models.losses import FAITHFUL_LOSSES, LOSSES
from tests.small_log import ROOT

COMMENT = next(line for line in (ROOT / "params.yaml").read_text().splitlines() if line.startswith("loss: "))
PLACES = {
    "rec_models.losses.FAITHFUL_LOSSES": FAITHFUL_LOSSES,
    "rec_models.config.LossName": typing.get_args(loss_settings.LossName),
    "rec_models.config.LOSSES": loss_settings.LOSSES,
    "rec_models.config._USED": loss_settings._USED,
    "cutrec.config.Params.loss": typing.get_args(typing.get_type_hints(params.Params)["loss"]),
    "params.yaml": COMMENT.partition("# ")[2].split(" | "),
    "cutrec.losses.LOSSES": losses.LOSSES,
}


@pytest.mark.parametrize("place", PLACES)
def test_every_registered_loss_is_named(place: str):
    assert sorted(PLACES[place]) == sorted(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_uses_is_what_its_settings_take(name: str):
    facts, used = losses.LOSSES[name], loss_settings.used_by(name)
    assert facts.draws == ("num_negatives" in used) == (name in loss_settings.SAMPLED_LOSSES)
    assert facts.corrects == ("logq" in used)
    assert facts.fused == ("impl" in used)


def test_titles_and_colours_tell_losses_apart():
    for column in ("title", "colour"):
        assert len({getattr(facts, column) for facts in losses.LOSSES.values()}) == len(LOSSES)
