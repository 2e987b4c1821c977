"""Checkpoint files: the trained model, and how any checkpoint is written and read safely.

All of them can be loaded with ``weights_only=True``.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cce_kernels.shard import Shard
from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import CheckpointError
from rec_models.fields import in_short
from rec_models.training.devices import usable_device
from rec_models.training.memory import is_out_of_memory
from rec_models.training.rows_file import mapped_rows, write_rows

_MODEL_FORMAT = "rec_models.model/1"


@dataclass(frozen=True)
class ModelCheckpoint:
    """Everything that is needed to use a trained model or to report on it."""

    model: ModelSettings
    loss: LossSettings
    training: TrainingSettings
    num_items: int
    epoch: int  # epochs trained when these weights were best, from 1
    metrics: dict[str, float]  # validation metrics of that epoch; empty without validation
    weights: dict[str, Tensor]  # the encoder's state dict
    batching: BatchSettings | None = None  # what the batches held; None: not recorded, or an older file
    catalogue: str | None = None  # the hash of the items' ids that `fit` was given; None: not recorded, or older
    log: str | None = None  # the hash of the log that `fit` was given; None: not recorded, or older

    def save(self, path: Path, shard: Shard | None = None) -> None:
        """Write to `path` under a temporary name, then rename: the final name never has a partial file.

        With a shard all processes call this, each with its rows of the item table; the first one writes the file, and
        reads the rows of the others from the disk, as they are written.
        """
        if shard is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = path.with_name(f"{path.name}.rows.part")
            write_rows(rows, {"item_table": self.weights["item_table"]}, shard)
            if shard.rows.rank == 0:
                with mapped_rows(rows) as whole:
                    replace(self, weights=self.weights | whole).save(path)
                rows.unlink()
            return
        parts: Any = {"model": self.model, "loss": self.loss, "training": self.training, "batching": self.batching}
        settings = {name: asdict(part) for name, part in parts.items() if part is not None}
        hashes = ("catalogue", "log")
        fields = {name: value for name, value in vars(self).items() if name not in hashes or value is not None}
        save_atomically({"format": _MODEL_FORMAT, **fields, **settings}, path)

    @classmethod
    def read(cls, path: Path, device: str | torch.device = "cpu") -> ModelCheckpoint:
        """Read a file that `save` wrote; settings that are missing in an older file get their defaults.

        Raises:
            CheckpointError: the file is damaged, not a model, or has settings that this version does not know.
            FileNotFoundError: there is no such file.
            ValueError: there is no such device.
        """
        payload = read_payload(path, _MODEL_FORMAT, device)
        try:
            model, loss = ModelSettings(**payload["model"]), LossSettings(**payload["loss"])
            training, batching = TrainingSettings(**payload["training"]), payload.get("batching")
            plain = {name: payload[name] for name in ("num_items", "epoch", "metrics", "weights")}
            batching = None if batching is None else BatchSettings(**batching)
            plain |= {name: payload.get(name) for name in ("catalogue", "log")}
            return cls(model, loss, training, **plain, batching=batching)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: of another version of rec_models: {in_short(error)}") from error


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values with `torch.save` beside the target, flush to the disk, rename.

    The folder is created. An ``OSError`` names the file: those of writing, such as a full disk, do not by themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_payload(path: Path, expected_format: str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_atomically` wrote, with tensors on a device; errors as of `ModelCheckpoint.read`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    target = usable_device(device)
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums but does not check them when it reads
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
