"""The trained model in one file: settings, catalogue size and weights; loadable with ``weights_only=True``."""

from __future__ import annotations

import os
import sys
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.fields import in_short
from rec_models.training.devices import usable_device
from rec_models.training.memory import is_out_of_memory

# Where a training run stands, and how it is kept on disk so that a killed run goes on as if nothing had happened.
_RUN_FORMAT = "rec_models.run/1"


@dataclass
class RunState:
    """Host-side counters of a run. Dropout and negatives are functions of (seed, step): no generator state is kept."""

    epoch: int = 0
    """The epoch in progress, from 0."""
    index: int = 0
    """Batches done in it."""
    step: int = 0
    """Optimiser steps done in all."""
    loss_sum: float = 0.0
    """Sum of the loss over the tokens of the epoch in progress."""
    loss_tokens: int = 0
    """Tokens in that sum."""
    places: int = 0
    """Input places read in the epoch in progress."""
    loop_seconds: float = 0.0
    """Seconds of the training loop in the epoch in progress, without checkpoints and validation."""
    whole_seconds: float = 0.0
    """Seconds of the whole fit so far."""
    peak_memory_gib: float = 0.0
    """Peak memory of the whole fit so far."""
    loop_peak_memory_gib: float = 0.0
    """Peak memory of the training loop so far, weights and optimiser included, validation left out."""
    best_score: float | None = None
    """Best validation score so far."""
    best_epoch: int = 0
    """The epoch, from 1, whose weights are kept; 0 before the first."""
    bad_epochs: int = 0
    """Epochs since then."""
    finished: bool = False
    """Training is over."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row an epoch."""

    def start_next_epoch(self) -> None:
        """Close the epoch in progress."""
        self.epoch += 1
        self.index = 0
        self.loss_sum, self.loss_tokens, self.places, self.loop_seconds = 0.0, 0, 0, 0.0


@dataclass(frozen=True)
class Resumed:
    """A run read back from disk."""

    state: RunState
    encoder: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    path: Path


class RunFolder:
    """The folder of one run's checkpoints: the last two states, and the best model so far.

    Args:
        path: the folder; made when first written.
        identity: plain values that must be equal for a state to be of this run: settings and catalogue size.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.last = path / "last.ckpt"
        self.previous = path / "previous.ckpt"
        self._identity = identity
        self._kept_best = [0, 0]  # best epoch of the previous and of the last state
        self.newest: Path | None = None
        """The newest whole state of this run, saved by this object or read by it; None: there is none yet."""
        self._last_is_whole = False  # a damaged file never pushes out a whole one

    def best(self, epoch: int) -> Path:
        """The model of the best epoch, from 1."""
        return self.path / f"best-{epoch}.ckpt"

    @property
    def newest_best(self) -> Path | None:
        """The best model that `newest` refers to; None before the first validation."""
        path = self.best(self._kept_best[1])
        return path if self.newest is not None and path.is_file() else None

    def save(self, state: RunState, encoder: dict[str, Any], optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Keep a state; the one before stays as a second choice, with the best model that it refers to.

        Args:
            state: the counters.
            encoder: state dict of the encoder.
            optimizer: state dict of the optimiser.
            scaler: state dict of the precision plugin; empty unless in 16-mixed.
        """
        payload = {
            "format": _RUN_FORMAT,
            "identity": self._identity,
            "state": asdict(state),
            "encoder": encoder,
            "optimizer": optimizer,
            "scaler": scaler,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        if self._last_is_whole:
            self.last.replace(self.previous)
        save_atomically(payload, self.last)
        self._last_is_whole = True
        self.newest = self.last
        self._kept_best = [self._kept_best[1], state.best_epoch]
        wanted = {self.best(epoch).name for epoch in self._kept_best}
        for path in self.path.glob("best-*.ckpt"):
            if path.name not in wanted:
                path.unlink()

    def resume(self) -> Resumed | None:
        """The newest state that is whole and of this run, or None.

        A damaged file or one of another run is passed over with one line of warning.
        """
        for part in self.path.glob("*.part"):  # of a process killed while it wrote
            part.unlink()
        for path in (self.last, self.previous):
            if not path.is_file():
                continue
            try:
                payload = read_payload(path, _RUN_FORMAT)
                if payload["identity"] != self._identity:
                    raise CheckpointError(f"{path}: of a run with other settings")
                state = RunState(**payload["state"])
                if state.best_epoch and not self.best(state.best_epoch).is_file():
                    raise CheckpointError(f"{path}: {self.best(state.best_epoch).name} is missing beside it")
                self._kept_best = [state.best_epoch, state.best_epoch]
                self._last_is_whole = path == self.last
                self.newest = path
                return Resumed(state, payload["encoder"], payload["optimizer"], payload["scaler"], path)
            except (CheckpointError, KeyError, TypeError) as error:
                sys.stderr.write(f"warning: not resuming from this checkpoint: {error}\n")
        return None


_MODEL_FORMAT = "rec_models.model/1"


class CheckpointError(ValueError):
    """A file is no checkpoint of this package, or a damaged one."""


@dataclass(frozen=True)
class ModelCheckpoint:
    """Everything that using or reporting a trained model needs."""

    model: ModelSettings
    loss: LossSettings
    training: TrainingSettings
    num_items: int
    epoch: int
    """Epochs trained when these weights were best, from 1."""
    metrics: dict[str, float]
    """Validation metrics of that epoch; empty without validation."""
    weights: dict[str, Tensor]
    """The encoder's state dict."""
    batching: BatchSettings | None = None
    """What a batch held; None: whoever trained did not say, or the file is older than this field."""

    def save(self, path: Path) -> None:
        """Write to `path` under a temporary name, then rename: there is never half a file under the final name."""
        payload = {
            "format": _MODEL_FORMAT,
            "model": asdict(self.model),
            "loss": asdict(self.loss),
            "training": asdict(self.training),
            "num_items": self.num_items,
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
            "weights": self.weights,
            "batching": None if self.batching is None else asdict(self.batching),
        }
        save_atomically(payload, path)

    @classmethod
    def read(cls, path: Path, device: str | torch.device = "cpu") -> ModelCheckpoint:
        """Read a file that `save` wrote; a setting that an older file lacks has its default.

        Args:
            path: the file.
            device: where the weights go.

        Raises:
            CheckpointError: the file is damaged, something else, or holds settings that this version does not know.
            FileNotFoundError: there is no such file.
            ValueError: there is no such device.
        """
        payload = read_payload(path, _MODEL_FORMAT, device)
        try:
            batching = payload.get("batching")
            return cls(
                model=ModelSettings(**payload["model"]),
                loss=LossSettings(**payload["loss"]),
                training=TrainingSettings(**payload["training"]),
                num_items=payload["num_items"],
                epoch=payload["epoch"],
                metrics=payload["metrics"],
                weights=payload["weights"],
                batching=None if batching is None else BatchSettings(**batching),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: of another version of rec_models: {in_short(error)}") from error


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """Write with `torch.save` beside the target, flush to the disk, rename.

    Args:
        payload: tensors and plain values: what reading with ``weights_only=True`` allows.
        path: the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_payload(path: Path, expected_format: str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_atomically` wrote.

    Args:
        path: the file.
        expected_format: what its entry ``format`` must be.
        device: where tensors go.

    Raises:
        CheckpointError: the file is damaged or of another format.
        FileNotFoundError: there is no such file.
        ValueError: there is no such device.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    target = usable_device(device)
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not look at them when it reads
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged: {damaged} fails its checksum")
        payload = torch.load(path, map_location=target, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive can fail in the zip reader, the unpickler or anywhere between
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged, or no checkpoint: {reason}") from error
    found = payload.get("format") if isinstance(payload, dict) else type(payload).__name__
    if found != expected_format:
        raise CheckpointError(f"{path}: found format {found!r}, allowed: {expected_format}")
    return dict(payload)
