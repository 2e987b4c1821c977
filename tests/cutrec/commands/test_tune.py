"""``cutrec tune``: a table, a preset in params.yaml, one sentence on the gain, and one line for each mistake."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cutrec import config
from cutrec.cli import execute
from cutrec.commands import tune as command
from cutrec.commands.tune import sentence
from cutrec.config_point import Config
from cutrec.errors import ConfigError, StageError, UsageError
from cutrec.outputs import write_json
from cutrec.workflow import training_inputs
from cutrec.workflow.tune_result import Gain, Tried, Tuning
from cutrec.workflow.tune_space import Space

TINY = {"loss": "cce", "backbone.hidden": 16, "train.max_epochs": 2, "train.patience": 2}


@pytest.fixture
def place(workplace: Callable[[dict[str, Any]], Path], split_once: Path) -> Path:
    """A checkout with the split of a small log, and a params.yaml that leaves some settings of a tiny network open."""
    folder = workplace(TINY)
    shutil.copytree(split_once / "data", folder / "data")
    write_json(folder / "data/download/summary.json", {"dataset": "demo"})
    return folder


def test_the_preset_of_the_best_trial_is_in_params_yaml(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    opened = Mock(wraps=training_inputs.read_split)
    monkeypatch.setattr(training_inputs, "read_split", opened)
    execute(["tune", "--trials", "3", "--name", "shop", "-S", "backbone.dropout=0.3"])
    assert opened.call_count == 1  # opening hashes the whole split
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("|")[1].strip() == "trial"
    assert any("the defaults" in line and "train.learning_rate=0.0005" in line for line in lines)
    assert "The time was too short" not in lines[-2]
    assert lines[-1] == "Use it: uv run dvc exp run -S preset=shop"
    values = config.read_yaml(place / "params.yaml")
    best = config.from_mapping(values | {"preset": "shop"})
    assert (best.loss, best.backbone.hidden, best.backbone.dropout, best.train.max_epochs) == ("cce", 16, 0.3, 2)
    assert set(best.undecided) <= {"num_negatives", "backbone.mask_prob"}  # of no use here
    assert (place / ".tune").is_dir()

    before = (place / "params.yaml").read_text()
    with pytest.raises(
        ConfigError, match=r"^--name: found shop, which params\.yaml has already, allowed: another name"
    ):
        execute(["tune", "--name", "shop"])
    again = ["tune", "--trials", "3", "--name", "shop", "-S", "backbone.dropout=0.3"]
    execute(again)  # the preset is this search's own, which has ended
    assert (place / "params.yaml").read_text() == before
    edited = before.replace("dropout: 0.3", "dropout: 0.2", 1)
    assert edited != before
    (place / "params.yaml").write_text(edited)
    with pytest.raises(ConfigError, match=r"found shop, which .* has already"):
        execute(again)
    execute([*again, "--overwrite"])
    assert (place / "params.yaml").read_text() == before


def test_an_edit_during_the_search_is_told_and_the_search_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch):
    table_of = command.table_of

    def edit(found: Tuning) -> str:
        params = place / "params.yaml"
        params.write_text(params.read_text().replace("\nloss: cce\n", "\nloss: bce\n"))
        return table_of(found)

    monkeypatch.setattr(command, "table_of", edit)
    with pytest.raises(StageError, match=r"^params\.yaml: found other settings than at the start, .* kept in .*\.tune"):
        execute(["tune", "--trials", "1"])
    assert "tuned" not in config.read_yaml(place / "params.yaml")["presets"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--minutes", "0"], UsageError, "--minutes: found 0, allowed: a number above 0"),
        (["--trials", "0"], UsageError, "--trials: found 0, allowed: 1 to"),
        (["--device", "cuda"], StageError, "--device: found cuda, but torch finds no GPU here, allowed: cpu"),
        (["--name", "none"], ConfigError, "--name: found 'none', allowed: a letter"),
        (["-S", "preset=tunde"], ConfigError, "preset: found 'tunde', allowed: none, "),
        (["-S", "split.strategy=temporal"], ConfigError, "found 'split.strategy=temporal', allowed: model=... or "),
        (["-S", "los=cce"], ConfigError, r"found 'los=cce' \(did you mean loss\?\), allowed: model=... or "),
        (["-S", "lr=0.1"], ConfigError, r"found 'lr=0.1' \(did you mean train.learning_rate\?\), allowed: "),
        ([], StageError, "data/split: found the split of demo, dataset is other, allowed: the split of the current"),
        (["no split"], StageError, "data/split: found no split, allowed: .* which `dvc repro split` makes"),
        (["no params"], ConfigError, "params.yaml: no such file in "),
    ],
)
def test_mistakes_are_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[Exception], says: str
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if arguments == []:
        write_json(place / "data/download/summary.json", {"dataset": "demo"})
        params = place / "params.yaml"
        params.write_text(params.read_text().replace("\ndataset: demo\n", "\ndataset: other\n"))
    if arguments == ["no split"]:
        shutil.rmtree(place / "data/split")
    if arguments == ["no params"]:
        (place / "params.yaml").unlink()
    with pytest.raises(error, match=f"^{says}") as caught:
        execute(["tune", *(argument for argument in arguments if not argument.startswith("no "))])
    assert "\n" not in str(caught.value)


def trial(number: int, ndcg: float) -> Tried:
    return Tried(number, {}, ndcg, 3, 1.0, "complete")


@pytest.mark.parametrize(
    ("best", "gain", "says"),
    [
        (0.055, Gain(0.005, 0.001, 900), "+10.0% over the defaults (0.0050 with a standard error of 0.0010 over 900"),
        (0.055, Gain(0.005, 0.004, 900), "That is within the noise: below two standard errors."),
        (0.05, None, "None of 2 trials is better than the defaults: validation NDCG@10 0.0500."),
    ],
)
def test_the_sentence_says_how_sure_the_gain_is(best: float, gain: Gain | None, says: str):
    tried = sorted([trial(1, 0.05), trial(2, best if gain else 0.04)], key=lambda tried: -tried.ndcg)
    point = Config()
    space = Space(point, None, point, {}, {})  # type: ignore[arg-type]  # not read
    assert says in sentence(Tuning(space, tried, gain, {}, 0, Path()))
