"""Experiment trackers against their local files: settings, one value an epoch, and a run that goes on."""

import csv
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rec_models.errors import TrainingError
from rec_models.training import trackers
from rec_models.training.logging import curves_of
from rec_models.training.run_state import RunState
from rec_models.training.trackers import Tracker

SETTINGS = {"model": {"hidden": 8}, "num_items": 30}
LOSSES = {1: 3.0, 2: 2.5, 3: 2.0}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracker reaches a server or the user's own files."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its database takes seconds to begin
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DVC_NO_ANALYTICS"):
        monkeypatch.setenv(name, "true")


def train(name: str, folder: Path, state: RunState, epochs: int, *, finished: bool) -> None:
    """What a process does with its tracker that trains up to this epoch."""
    tracker = Tracker(name, folder)
    tracker.follow(state, SETTINGS)
    tracker.start()
    for epoch in range(len(state.history) + 1, epochs + 1):
        state.history.append(
            {"epoch": epoch, "step": 10 * epoch, "train_loss": LOSSES[epoch], "validation_ndcg@10": 0.5}
        )
        tracker.log(curves_of)
    state.finished = finished
    tracker.close()


def of_dvclive(folder: Path) -> tuple[dict[int, float], Any, str]:
    with (folder / "dvclive/plots/metrics/train/loss.tsv").open() as file:
        losses = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")}
    assert json.loads((folder / "dvclive/metrics.json").read_text())["validation"] == {"ndcg_at_10": 0.5}
    return losses, (folder / "dvclive/params.yaml").read_text().partition("model.hidden: ")[2][0], "complete"


def of_mlflow(folder: Path) -> tuple[dict[int, float], Any, str]:
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("cutrec").experiment_id])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    losses = {point.step: point.value for point in points}
    assert len(points) == len(losses)
    assert run.data.metrics["validation/ndcg_at_10"] == 0.5
    return losses, run.data.params["model.hidden"], "complete" if run.info.status == "FINISHED" else "incomplete"


def logged(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, behind the seven bytes with which such a file of wandb begins."""
    place, record = 7, b""
    while (rest := 32768 - place % 32768) and place + 7 <= len(content):
        if rest < 7:  # no header fits into what is left of the block
            place += rest
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if place + 7 + length > len(content):  # still being written
            return
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def of_wandb(folder: Path) -> tuple[dict[int, float], Any, str]:
    from wandb.proto.wandb_internal_pb2 import Record

    names, losses, config, code = set(), {}, {}, None
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        names.add(path.stem)
        for data in logged(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if "train/loss" in items:
                losses[items["_step"]] = items["train/loss"]
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
            code = record.exit.exit_code if record.HasField("exit") else code
    assert len(names) == 1  # of one run, whose parts `wandb sync` joins
    return losses, str(config["model.hidden"]), "complete" if code == 0 else "incomplete"


READERS = {"dvclive": of_dvclive, "mlflow": of_mlflow, "wandb": of_wandb}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", READERS)
def test_a_resumed_training_goes_on_in_its_run(name: str, tmp_path: Path):
    state = RunState()
    train(name, tmp_path, state, 2, finished=False)
    if name == "wandb":  # names the folder of each part by the second in which it began
        time.sleep(1.1)
    train(name, tmp_path, state, 3, finished=True)
    give_up = time.monotonic() + 20  # wandb's own process may write the end of its file a moment later
    while (found := READERS[name](tmp_path)) != (LOSSES, "8", "complete") and time.monotonic() < give_up:
        time.sleep(0.1)
    assert found == (LOSSES, "8", "complete")


class Recorded:
    """A run that remembers what it is given, and fails at an epoch if told so."""

    opened: list["Recorded"]
    fails_at = 0

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        self.name, self.last, self.settings = name or "new", None, settings
        self.epochs: list[int] = []
        self.opened.append(self)

    def log(self, values: dict[str, float], epoch: int) -> None:
        if epoch == self.fails_at:
            raise OSError("the server\nis gone")
        self.epochs.append(epoch)

    def close(self, *, complete: bool) -> None:
        self.complete = complete


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    """A tracker whose runs are `Recorded`."""
    kind = type("Recorded", (Recorded,), {"opened": []})
    monkeypatch.setitem(trackers._OPEN, "wandb", kind)
    return kind


def test_a_training_is_followed_to_its_end_and_once(tiny: Any, tmp_path: Path, recorded: type[Recorded]):
    folders = tmp_path / "out", tmp_path / "kept"
    result = tiny.run(*folders, tracker=Tracker("wandb", tmp_path))
    (run,) = recorded.opened
    assert run.epochs == list(range(1, result.epochs + 1))
    assert (run.complete, run.settings["loss.loss"], run.settings["training.max_epochs"]) == (True, "cce", 3)
    tiny.run(*folders, tracker=Tracker("wandb", tmp_path))  # it is finished: nothing is new
    assert len(recorded.opened) == 1


def test_a_training_that_stops_leaves_an_incomplete_run_and_resumes_it(
    tiny: Any, tmp_path: Path, recorded: type[Recorded]
):
    def stop(*_: object) -> None:
        raise KeyError("stop")

    folders = tmp_path / "out", tmp_path / "kept"
    with pytest.raises(KeyError):
        tiny.run(*folders, tracker=Tracker("wandb", tmp_path), on_epoch=lambda _, epoch: epoch == 2 and stop())
    assert recorded.opened[0].complete is False
    tiny.run(*folders, tracker=Tracker("wandb", tmp_path))
    assert [run.epochs for run in recorded.opened] == [[1], [2, 3]]
    assert recorded.opened[1].name == "new"


def test_a_tracker_that_fails_does_not_end_the_training(
    tiny: Any, tmp_path: Path, recorded: type[Recorded], capsys: pytest.CaptureFixture[str]
):
    recorded.fails_at = 2
    result = tiny.run(tmp_path / "out", tmp_path / "kept", tracker=Tracker("wandb", tmp_path))
    assert result.epochs == 3
    said = capsys.readouterr().err
    assert said.count("warning: wandb takes no more metrics, training goes on without it: the server is gone\n") == 1


def test_a_tracker_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(trackers, "import_module", lambda name: SimpleNamespace()[name])
    tracker = Tracker("mlflow", tmp_path)
    tracker.follow(RunState(), SETTINGS)
    with pytest.raises(TrainingError, match=r"^tracker: mlflow cannot start \(.*\), allowed: none trains without$"):
        tracker.start()
