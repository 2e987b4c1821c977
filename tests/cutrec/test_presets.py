"""Presets that are written into params.yaml: nothing else in the file changes."""

import shutil
from pathlib import Path

import pytest

from cutrec import config
from cutrec.errors import ConfigError
from cutrec.presets import refuse_preset_name, write_preset
from tests.small_log import ROOT

VALUES = {"loss": "cce", "batch_size": 64, "backbone.hidden": 256, "train.learning_rate": 0.0002, "train.window": None}
LINES = """\
  # Written by `cutrec tune`.
  tuned:
    loss: cce
    batch_size: 64
    backbone:
      hidden: 256
    train:
      learning_rate: 0.0002
      window:
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_a_preset_adds_its_lines_only(params: Path):
    before = params.read_text()
    write_preset(params, "tuned", VALUES, overwrite=False)
    assert params.read_text() == before.replace("\npresets:\n", f"\npresets:\n{LINES}")
    values = config.read_yaml(params) | {"preset": "tuned"}
    point = config.from_mapping(values)
    assert (point.loss, point.backbone.hidden, point.train.learning_rate, point.train.window) == (
        "cce",
        256,
        2e-4,
        None,
    )
    assert not {"loss", "train.window"} & set(point.undecided)


@pytest.mark.parametrize("name", ["tuned", "last"])
def test_a_preset_that_is_replaced_keeps_the_comments(params: Path, name: str):
    """The comment above ``grid`` belongs to the last value of the last preset, for ruamel."""
    write_preset(params, "tuned", VALUES, overwrite=False)
    text = params.read_text().replace(
        "\n\n# The paper's experiments", "\n  last:\n    loss: ce\n\n# The paper's experiments"
    )
    params.write_text(text)
    write_preset(params, name, VALUES | {"batch_size": 96}, overwrite=True)
    assert config.preset_values(name, config.read_yaml(params)["presets"][name]) == VALUES | {"batch_size": 96}
    comments = [line for line in text.splitlines() if "#" in line]
    assert [line for line in params.read_text().splitlines() if "#" in line] == comments


def test_names_and_values_that_are_refused(params: Path):
    write_preset(params, "tuned", VALUES, overwrite=False)
    before = params.read_text()
    for name, overwrite, says in [
        ("tuned", False, r"^--name: found tuned, which .* has already, allowed: another name, or --overwrite$"),
        ("none", True, "^--name: found 'none', allowed: a letter"),
        ("a.b", True, "^--name: found 'a.b', allowed: a letter"),
    ]:
        with pytest.raises(ConfigError, match=says):
            refuse_preset_name(params, name, overwrite=overwrite)
        with pytest.raises(ConfigError, match=says):
            write_preset(params, name, VALUES, overwrite=overwrite)
    with pytest.raises(ConfigError, match=r"^presets.x.batch_size: found 0"):
        write_preset(params, "x", {"batch_size": 0}, overwrite=False)
    assert params.read_text() == before
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]
