"""Files of a training: the trained model, and states to resume from.

A model is a safetensors file, whose metadata have everything but the weights as JSON. States are written by
`torch.save` and loaded with ``weights_only=True``, as models of version 0.1 were (``model.ckpt``).
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cce_kernels.shard import Shard
from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import CheckpointError
from rec_models.fields import in_short
from rec_models.training import tensor_file
from rec_models.training.devices import usable_device
from rec_models.training.memory import is_out_of_memory
from rec_models.training.rows_file import rows_in_order, whole

MODEL_NAME = "model.safetensors"
"""The name of a model's file in the folder of a training."""
_MODEL_FORMAT = "rec_models.model/2"
_OLD_MODEL_FORMAT = "rec_models.model/1"
_ZIP = b"PK"
"""What a file of `torch.save` begins with."""


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

        With a shard all processes call this, each with its rows of the item table; the first one writes the file.
        """
        save_rows(path, self._metadata(), self.weights, ("item_table",), shard)

    def _metadata(self) -> dict[str, str]:
        """The format, and every other field as JSON; one that is not recorded is left out."""
        fields = {name: value for name, value in vars(self).items() if name != "weights" and value is not None}
        return {"format": _MODEL_FORMAT} | {name: json.dumps(value, default=asdict) for name, value in fields.items()}

    @classmethod
    def read(cls, path: Path, device: str | torch.device = "cpu") -> ModelCheckpoint:
        """Read a file that `save` wrote, or a ``model.ckpt`` of version 0.1, whatever its name.

        Settings that are missing in an older file get their defaults. The weights of a file that `save` wrote are
        memory-mapped (`rec_models.training.tensor_file.read`).

        Raises:
            CheckpointError: the file is damaged, not a model, or has settings that this version does not know.
            FileNotFoundError: there is no such file.
            ValueError: there is no such device.
        """
        payload = _read_model(path, device)
        try:
            model, loss = ModelSettings(**payload["model"]), LossSettings(**payload["loss"])
            training, batching = TrainingSettings(**payload["training"]), payload.get("batching")
            plain = {name: payload[name] for name in ("num_items", "epoch", "metrics", "weights")}
            batching = None if batching is None else BatchSettings(**batching)
            plain |= {name: payload.get(name) for name in ("catalogue", "log")}
            return cls(model, loss, training, **plain, batching=batching)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: of another version of rec_models: {in_short(error)}") from error


def _read_model(path: Path, device: str | torch.device) -> dict[str, Any]:
    """The fields of a model's file by name, with settings as plain values."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        if file.read(len(_ZIP)) == _ZIP:
            return read_payload(path, (_OLD_MODEL_FORMAT,), device)
    metadata, weights = tensor_file.read(path, device)
    if (found := metadata.pop("format", None)) != _MODEL_FORMAT:
        raise CheckpointError(f"{path}: found format {found!r}, allowed: {_MODEL_FORMAT}")
    try:
        return {name: json.loads(text) for name, text in metadata.items()} | {"weights": weights}
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside the target, which takes its place when the block ends and all is on the disk.

    The folder is created. An ``OSError`` names the file: those of writing, such as a full disk, do not by themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_rows(
    path: Path, metadata: dict[str, str], tensors: dict[str, Tensor], sharded: Collection[str], shard: Shard | None
) -> None:
    """Write a file of tensors, of which those with names in `sharded` are the rows of a shard.

    All processes of the shard call this with the same names; the first one writes.
    """
    if shard is None:
        with _written(path) as file:
            tensor_file.write(file, metadata, tensors)
        return
    own = {name: tensors[name] for name in tensors if name in sharded}
    if shard.rows.rank > 0:
        for values in own.values():
            for _ in rows_in_order(values, shard):
                pass
        return
    shapes = {name: whole(tensor, shard) if name in own else tensor for name, tensor in tensors.items()}
    with _written(path) as file:
        tensor_file.write(
            file, metadata, shapes, lambda name: rows_in_order(own[name], shard) if name in own else [tensors[name]]
        )


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values with `torch.save` beside the target, flush to the disk, rename."""
    with _written(path) as file:
        torch.save(payload, file)


def read_payload(path: Path, formats: tuple[str, ...], device: str | torch.device = "cpu") -> dict[str, Any]:
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
    if found not in formats:
        raise CheckpointError(f"{path}: found format {found!r}, allowed: {' | '.join(formats)}")
    return dict(payload)
