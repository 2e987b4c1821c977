"""`cutrec export`: the program of a model, by its folder or its file."""

from pathlib import Path

import pytest
import torch

from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.recommender import Recommender
from tests.small_log import small_log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model."""
    place = tmp_path_factory.mktemp("saved") / "model"
    Recommender.fit(small_log(), max_seq_len=8, backbone={"hidden": 8}, loss="cce", train={"max_epochs": 1}).save(place)
    return place


def test_a_model_is_exported_by_the_name_of_the_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    execute(["export", "--model", str(folder), "--out", str(tmp_path / "new/encoder.pt2")])
    assert "histories of 1 to 8 of 40 items" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "new/encoder.pt2").module()
    _, scores = program(torch.tensor([[3, 1, 0]]), torch.tensor([2]))
    found = Recommender.load(folder)
    names = found._items.names.take([3, 1]).to_pylist()
    expected = found.recommend(histories={"a": names}, k=40, filter_seen=False)["score"].to_list()
    assert sorted(scores[0].tolist(), reverse=True) == pytest.approx(expected, abs=1e-5)
    asked: list[str] = []
    monkeypatch.setattr("rec_models.export.export", lambda encoder, path, form: asked.append(form))
    for name, extra in (("a.onnx", []), ("a.bin", []), ("a.bin", ["--format", "onnx"])):
        execute(["export", "--model", str(folder / "model.safetensors"), "--out", str(tmp_path / name), *extra])
    assert asked == ["onnx", "torch", "onnx"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--out: found none, allowed: the file to write"),
        (["--out", "a.pt2", "--model", "none"], "--model: found no none, allowed: what the train stage wrote"),
        (["--out", "."], "--out: found ., a folder, allowed: a file"),
        (["--out", "a.pt2", "--format", "tflite"], "--format"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str):
    monkeypatch.chdir(folder)
    given = arguments if "--model" in arguments else [*arguments, "--model", "."]
    with pytest.raises(StageError) as caught:
        execute(["export", *given])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
