"""A loss is one file and one line of the registry: everything else learns about it from there."""

import dataclasses
from pathlib import Path

import pytest

import rec_models.losses
from cutrec.config import from_mapping, loss_settings, read_yaml, refuse_contradictions
from cutrec.config_point import Config
from cutrec.errors import ConfigError
from cutrec.reporting import tables
from cutrec.workflow.plan import setup_of
from rec_models.encoders import ENCODERS, build_encoder
from rec_models.losses import LOSSES, SAMPLERS, LossSize, build_loss
from rec_models.losses.registry import LossSpec, load
from rec_models.losses.settings import LossSettings
from rec_models.planning.sizes import loss_cost
from tests.rec_models import tiny_run
from tests.small_log import ROOT

FILE = '''
from rec_models.losses.registry import LossCost

def build(settings, item_counts):
    """Hinge loss against the highest other score."""

    def hinge(hidden, weight, targets, context):
        scores = hidden.float() @ weight.float().T
        positive = scores.gather(1, targets[:, None])
        return (1 + scores.scatter(1, targets[:, None], -1e9).amax(1) - positive[:, 0]).relu().mean()

    return hinge


def cost(size):
    """The fp32 scores and one product."""
    return LossCost(0, 4 * size.tokens, {"exact_flops": 2.0 * size.tokens * size.items * size.width})
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "hinge.py").write_text(FILE)
    monkeypatch.setattr(rec_models.losses, "__path__", [*rec_models.losses.__path__, str(tmp_path / "losses")])
    line = LossSpec(build="hinge.build", title="Hinge", colour="#000000", cost="hinge.cost")
    monkeypatch.setitem(LOSSES, "hinge", line)


@pytest.mark.usefixtures("toy")
def test_a_new_loss_is_configured_trained_planned_and_reported(tmp_path: Path):
    point = from_mapping({"loss": "hinge", "train": {"max_epochs": 1}})
    refuse_contradictions(point)
    assert loss_settings(point) == LossSettings(loss="hinge")
    with pytest.raises(ConfigError, match=r"loss: found 'hinges', allowed: ce \| .* \| hinge, or auto$"):
        from_mapping({"loss": "hinges"})

    result = tiny_run.run(tmp_path / "out", tmp_path / "checkpoints", loss="hinge", counts=(2,), max_epochs=1)
    assert result.history[-1]["train_loss"] > 0

    setup = setup_of(point)
    assert (
        loss_cost(
            setup, LossSize(items=30, width=8, tokens=5, negatives=0, groups=5, options=vars(setup.loss))
        ).backward
        == 20
    )
    assert tables.title(point) == "sasrec with hinge on demo"


def test_every_line_of_the_registries_can_be_built():
    for name in LOSSES:
        for paper_faithful in (False, True):
            assert callable(build_loss(LossSettings.pick(name, num_negatives=2, paper_faithful=paper_faithful)))
    for sampler in SAMPLERS.values():
        assert callable(load(sampler.build))
    for name in ENCODERS:
        model = dataclasses.replace(Config(), model=name)
        assert build_encoder(tiny_run.ModelSettings(model=model.model, hidden=8), 5).item_table.shape == (5, 8)


def test_titles_and_colours_tell_losses_apart():
    for column in ("title", "colour"):
        assert len({getattr(spec, column) for spec in LOSSES.values()}) == len(LOSSES)


@pytest.mark.parametrize(
    ("key", "names"), [("loss", LOSSES), ("model", ENCODERS), ("sampling", SAMPLERS)], ids=["loss", "model", "sampling"]
)
def test_the_comments_of_params_yaml_name_the_registries(key: str, names: dict):
    line = next(row for row in (ROOT / "params.yaml").read_text().splitlines() if row.strip().startswith(f"{key}: "))
    assert line.partition("# ")[2].split(" | ") == list(names)
    assert read_yaml(ROOT / "params.yaml")
