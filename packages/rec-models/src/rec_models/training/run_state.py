"""The state of a training run, and how it is kept on disk so that a killed run resumes as if nothing had happened."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rec_models.errors import CheckpointError
from rec_models.training.checkpoint import read_payload, save_atomically

_RUN_FORMAT = "rec_models.run/1"


@dataclass
class RunState:
    """Counters of a run. Dropout and negatives are functions of (seed, step), so there is no generator state."""

    epoch: int = 0  # the epoch in progress, from 0
    index: int = 0  # batches of that epoch that are done
    step: int = 0  # optimizer steps done in total
    loss_sum: float = 0.0  # sum of the loss over the tokens of the epoch in progress
    loss_tokens: int = 0  # tokens in that sum
    places: int = 0  # input places read in the epoch in progress
    loop_seconds: float = 0.0  # of the training loop in the epoch in progress, without checkpoints and validation
    whole_seconds: float = 0.0  # seconds of the whole fit so far
    peak_memory_gib: float = 0.0  # peak memory of the whole fit so far
    loop_peak_memory_gib: float = 0.0  # of the training loop so far, with weights and optimizer, without validation
    best_score: float | None = None  # best validation score so far
    best_epoch: int = 0  # the epoch, from 1, whose weights are kept; 0 before the first
    bad_epochs: int = 0  # epochs since the best one
    finished: bool = False  # training is over
    tracked: str = ""  # the tracker that follows the training, and its name of the run: mlflow:ID
    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    # mean loss per token of the last optimizer steps, if read; the checkpoint has their number, a file beside it all
    step_losses: array[float] = field(default_factory=lambda: array("d"))

    def end_epoch(self, metrics: dict[str, float], score: float | None, validation_seconds: float) -> dict[str, float]:
        """Close the epoch in progress: add its row to the history and compare its score with the best so far.

        The score is the metric of its validation that decides; None: there was none, the last epoch is the best.
        Returns the row; `bad_epochs` is 0 if the epoch is the best so far.
        """
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "train_loss": self.loss_sum / self.loss_tokens,
            "train_seconds": self.loop_seconds,
            "validation_seconds": validation_seconds,
            "tokens": self.places,
            "tokens_per_second": self.places / max(self.loop_seconds, 1e-9),
        } | {f"validation_{name}": value for name, value in metrics.items()}
        self.history.append(row)
        if score is None or self.best_score is None or score > self.best_score:
            self.best_score, self.best_epoch, self.bad_epochs = score, self.epoch + 1, 0
        else:
            self.bad_epochs += 1
        self.epoch, self.index = self.epoch + 1, 0
        self.loss_sum, self.loss_tokens, self.places, self.loop_seconds = 0.0, 0, 0, 0.0
        return row


class Resumed(NamedTuple):
    """A run that was read from disk: what `RunFolder.save` wrote, and where it was."""

    state: RunState
    encoder: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any]
    path: Path


class RunFolder:
    """The folder of a run's checkpoints: the last two states, and the best model of each.

    The identity has plain values (settings, catalogue size) that a state must share to belong to this run.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.last = path / "last.ckpt"
        self.previous = path / "previous.ckpt"
        self.step_losses = path / "step_losses.bin"  # float64, appended to: a checkpoint does not grow with the steps
        self._losses_saved = 0
        self._identity = identity
        self._kept_best = [0, 0]  # best epoch of the previous and of the last state
        self.newest: Path | None = None  # the newest intact state of this run that this object saved or read

    def best(self, epoch: int) -> Path:
        """The model of the best epoch, from 1."""
        return self.path / f"best-{epoch}.safetensors"

    @property
    def newest_best(self) -> Path | None:
        """The best model that `newest` refers to; None before the first validation."""
        path = self.best(self._kept_best[1])
        return path if self.newest is not None and path.is_file() else None

    def save(
        self,
        state: RunState,
        encoder: dict[str, Any],
        optimizer: dict[str, Any],
        scaler: dict[str, Any],
        average: dict[str, Any],
    ) -> None:
        """Write a state; the previous one stays as a fallback, with the best model that it refers to.

        Beside the counters these are the state dicts of encoder, optimizer, precision plugin (empty unless in 16-mixed)
        and averaged encoder (empty without averaging). A finished run needs only the counters and the best model: the
        same run then ends at once.
        """
        if state.finished:
            encoder, optimizer, average = {}, {}, {}
        counters = vars(state) | {"step_losses": len(state.step_losses)}
        payload = {"format": _RUN_FORMAT, "identity": self._identity, "state": counters}
        payload |= {"encoder": encoder, "optimizer": optimizer, "scaler": scaler, "average": average}
        self.path.mkdir(parents=True, exist_ok=True)
        self._append_losses(state.step_losses)
        if self.newest == self.last:  # a damaged file never replaces an intact one
            self.last.replace(self.previous)
        save_atomically(payload, self.last)
        self.newest = self.last
        self._kept_best = [self._kept_best[1], state.best_epoch]
        if state.finished:
            self.previous.unlink(missing_ok=True)
            self._kept_best[0] = state.best_epoch
        wanted = {self.best(epoch).name for epoch in self._kept_best}
        for path in self.path.glob("best-*.safetensors"):
            if path.name not in wanted:
                path.unlink()

    def resume(self) -> Resumed | None:
        """The newest intact state of this run, or None.

        A file that is damaged or belongs to another run is skipped with one line of warning.
        """
        for part in self.path.glob("*.part"):  # of a process that was killed while writing
            part.unlink()
        for path in (self.last, self.previous):
            if not path.is_file():
                continue
            try:
                payload = read_payload(path, _RUN_FORMAT)
                if payload["identity"] != self._identity:
                    raise CheckpointError(f"{path}: of a run with other settings")
                kept = payload["state"].pop("step_losses", [])
                state = RunState(**payload["state"], step_losses=self._read_losses(kept))
                if state.best_epoch and not self.best(state.best_epoch).is_file():
                    raise CheckpointError(f"{path}: {self.best(state.best_epoch).name} is missing beside it")
                self._losses_saved = 0 if isinstance(kept, list) else len(state.step_losses)
                self._kept_best = [state.best_epoch, state.best_epoch]
                self.newest = path
                encoder, optimizer, scaler = (payload[name] for name in ("encoder", "optimizer", "scaler"))
                return Resumed(state, encoder, optimizer, scaler, payload.get("average", {}), path)
            except (CheckpointError, KeyError, TypeError) as error:
                sys.stderr.write(f"warning: not resuming from this checkpoint: {error}\n")
        return None

    def _append_losses(self, losses: array[float]) -> None:
        """Write the losses that are not in the file yet, over what a run that was killed has written there since."""
        if fresh := losses[self._losses_saved :]:
            self.step_losses.touch()
            with self.step_losses.open("r+b") as file:
                file.seek(losses.itemsize * self._losses_saved)
                fresh.tofile(file)
        self._losses_saved = len(losses)

    def _read_losses(self, kept: int | list[float]) -> array[float]:
        """The first `kept` losses of the file; none if it has fewer. An older state has the losses themselves."""
        if isinstance(kept, list):
            return array("d", kept)
        written = self.step_losses.read_bytes() if self.step_losses.is_file() else b""
        size = kept * array("d").itemsize
        return array("d", written[:size] if len(written) >= size else b"")
