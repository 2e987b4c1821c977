"""Files that a later stage reads, damaged: refused in one line, or with the result that the intact file has."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import read_json, write_json
from cutrec.reporting.run_outputs import read_outputs
from cutrec.workflow.evaluate import evaluate
from cutrec.workflow.split import split
from cutrec.workflow.train import train
from rec_models.inference import load
from rec_models.training import loop
from tests.small_log import small_log, write_params

SETTINGS = {
    "dataset": "log.parquet", "max_seq_len": 8, "backbone.hidden": 8, "backbone.blocks": 1, "loss": "cce",
    "train.max_epochs": 2, "batch_size": 64,
}  # fmt: skip
TIMES = ("seconds", "waited", "memory", "gib", "tokens_per_second", "users_per_second")
Read = Callable[[Config, Path], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after all stages up to evaluate."""
    folder = tmp_path_factory.mktemp("run") / "checkout"
    data = folder / "data"
    for name in ("source", "download"):
        (data / name).mkdir(parents=True)
    write_params(folder, SETTINGS)
    small_log(users=60, items=20).write_parquet(data / "download/log.parquet")
    write_json(data / "download/summary.json", {"rows": 600, "dataset": "log.parquet"})
    write_checksums(data / "download")
    write_json(data / "source/fingerprint.json", {"kind": "file"})
    write_checksums(data / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        point = config.load()
        split(point, data / "download/log.parquet", data / "split")
        train(point, data / "split", data / "train", checkpoints=folder / ".checkpoints")
        evaluate(point, data / "split", data / "train/model.safetensors", data / "evaluate")
    return folder


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not any(word in name for word in TIMES)}


def of_split(point: Config, folder: Path) -> Any:
    split(point, folder / "data/download/log.parquet", folder / "again")
    return {path.name: path.read_bytes() for path in (folder / "again").rglob("*.arrow")}


def of_train(point: Config, folder: Path) -> Any:
    train(point, folder / "data/split", folder / "again", checkpoints=folder / ".checkpoints")
    return without_times(read_json(folder / "again/metrics.json"))


def of_evaluate(point: Config, folder: Path) -> Any:
    evaluate(point, folder / "data/split", folder / "data/train/model.safetensors", folder / "again")
    lists = pq.read_table(folder / "again/recommendations.parquet").to_pydict()
    return (
        lists,
        without_times(read_json(folder / "again/metrics.json")),
        (folder / "again/details/examples.json").read_text(),
    )


def of_recommend(point: Config, folder: Path) -> Any:
    execute(["recommend", "--k", "3", "--out", "again/lists.parquet"])
    return pq.read_table(folder / "again/lists.parquet").to_pydict()


def of_report(point: Config, folder: Path) -> Any:
    found = vars(read_outputs(point, folder / "data"))
    return {name: value for name, value in found.items() if name != "code"}


CASES: dict[str, Read] = {
    "data/download/log.parquet": of_split,
    "data/split/sequences/train.arrow": of_train,
    "data/split/sequences/validation.arrow": of_train,
    "data/split/sequences/test.arrow": of_evaluate,
    "data/split/items.parquet": of_evaluate,
    "data/split/users.parquet": of_evaluate,
    "data/train/items.parquet": of_recommend,
    "data/train/model.safetensors": of_recommend,
    "data/source/fingerprint.json": of_report,
    "data/download/summary.json": of_report,
    "data/split/summary.json": of_report,
    "data/train/metrics.json": of_report,
    "data/train/history.csv": of_report,
    "data/evaluate/metrics.json": of_report,
    "data/evaluate/details/segments.csv": of_report,
    "data/evaluate/details/examples.json": of_report,
    "data/evaluate/SHA256SUMS": of_report,
}
FLIPS, CUTS = (int(os.environ.get("CUTREC_TEST_FLIPS", each)) for each in (8, 3))


def damaged(whole: bytes) -> list[bytes]:
    """Copies with one bit flipped, cut off, or empty."""
    random = np.random.default_rng(len(whole))
    flips = random.choice(8 * len(whole), min(FLIPS, 8 * len(whole)), replace=False).tolist()
    cuts = random.choice(len(whole), min(CUTS, len(whole)), replace=False).tolist()
    flipped = [whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in flips]
    return [*flipped, *(whole[:end] for end in cuts), b""]


def outcome(read: Read, point: Config, folder: Path) -> Any:
    """What is read, or None where the file is refused; any other error is one of the program."""
    shutil.rmtree(folder / "again", ignore_errors=True)
    try:
        return read(point, folder)
    except (ValueError, OSError) as error:  # what `cutrec.console.run_and_exit` prints as one line
        return error


@pytest.mark.parametrize("name", CASES)
def test_damage_is_refused_or_changes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    folder = shutil.copytree(run, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    point, path = config.load(), folder / name
    expected, whole = outcome(CASES[name], point, folder), path.read_bytes()
    assert not isinstance(expected, Exception)
    refused = 0
    for content in damaged(whole):
        path.write_bytes(content)
        found = outcome(CASES[name], point, folder)
        refused += isinstance(found, Exception)
        assert isinstance(found, Exception) or found == expected
    assert refused


def test_a_damaged_state_of_training_is_not_resumed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = shutil.copytree(run, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    point, kept = config.load(), tmp_path / "kept"
    expected = without_times(read_json(folder / "data/train/metrics.json"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.ResultsFolder, "take_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(point, folder / "data/split", folder / "again", checkpoints=kept)
    (last,) = kept.rglob("last.ckpt")
    for content in damaged(last.read_bytes()):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        shutil.copytree(kept, tmp_path / "state")
        (tmp_path / "state" / last.relative_to(kept)).write_bytes(content)
        train(point, folder / "data/split", folder / "again", checkpoints=tmp_path / "state")
        assert without_times(read_json(folder / "again/metrics.json")) == expected


@pytest.mark.parametrize("other", ["items", "users"])
def test_sequences_of_another_split_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str):
    """Ids of equal number in another order: nothing but their hash tells them apart."""
    folder = shutil.copytree(run, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    path = folder / f"data/split/{other}.parquet"
    table = pq.read_table(path)
    ids = table["original_id"].take(list(reversed(range(len(table)))))
    place = table.column_names.index("original_id")
    pq.write_table(table.set_column(place, "original_id", ids), path)
    for read in (of_evaluate, of_train) if other == "items" else (of_evaluate,):
        with pytest.raises(ValueError, match=f"{other}.parquet"):
            read(config.load(), folder)


def test_an_edited_or_restored_file_is_named_with_the_cure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(run / "data/train", tmp_path / "train")
    values = read_json(folder / "metrics.json")
    assert capsys.readouterr().err == ""
    (folder / "metrics.json").write_text(json.dumps(values | {"epochs": 77}))
    expected = (
        f"{folder}/metrics.json and {folder}/SHA256SUMS do not fit each other: one of them was damaged, edited or "
        "restored; `dvc repro -f train` makes both"
    )
    with pytest.raises(StageError) as caught:
        read_json(folder / "metrics.json")
    assert str(caught.value) == expected
    (folder / "SHA256SUMS").unlink()  # as outputs of earlier versions
    for _ in range(2):
        assert read_json(folder / "metrics.json")["epochs"] == 77
    assert (
        capsys.readouterr().err
        == f"note: {folder} has no SHA256SUMS, so its files are not checked for damage (dvc repro)\n"
    )


@pytest.mark.parametrize("name", ["details/segments.csv", "details/comparison.csv", "details/memory.json"])
def test_an_output_that_is_gone_is_missed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    folder = shutil.copytree(run, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    if not (path := folder / "data/evaluate" / name).exists():  # this run has one test user, and so no comparison
        path.touch()
        write_checksums(folder / "data/evaluate")
    path.unlink()
    expected = rf"{name}: no such file, the stage evaluate writes it \(dvc repro\)$"
    with pytest.raises(StageError, match=expected):
        of_report(config.load(), folder)


@pytest.mark.parametrize("kept", [0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["train.arrow", "validation.arrow", "test.arrow"])
def test_a_damaged_sequence_store_is_named_with_the_cure(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: float
):
    folder = shutil.copytree(run, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    path = folder / "data/split/sequences" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(StageError, match=r"; `dvc repro -f split` makes it again$"):
        (of_evaluate if name == "test.arrow" else of_train)(config.load(), folder)


def test_every_table_of_a_stage_is_listed(run: Path):
    listed = {
        f"{folder.name}/{line.split('  ')[1]}"
        for folder in (run / "data").iterdir()
        for line in (folder / "SHA256SUMS").read_text().splitlines()
    }
    tables = {f"split/{name}.parquet" for name in ("train", "validation", "test", "items", "users")}
    lists = {f"evaluate/{name}" for name in ("recommendations.parquet", "metrics_at_k.csv", "per_user.parquet")}
    assert tables | lists <= listed


def test_a_model_knows_the_log_that_its_split_was_made_from(run: Path):
    digest = hashlib.sha256((run / "data/download/log.parquet").read_bytes()).hexdigest()
    assert read_json(run / "data/split/summary.json")["log_sha256"] == digest
    assert load(run / "data/train/model.safetensors").log == digest
