"""Models as version 0.1 wrote them."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from rec_models.training.checkpoint import ModelCheckpoint


def write_old_model(checkpoint: ModelCheckpoint, path: Path) -> dict[str, Any]:
    """Write a ``model.ckpt``, and return its payload."""
    settings = [each for each in ("model", "loss", "training", "batching") if getattr(checkpoint, each) is not None]
    plain = {name: dataclasses.asdict(getattr(checkpoint, name)) for name in settings}
    payload = {"format": "rec_models.model/1", **vars(checkpoint), **plain}
    torch.save(payload, path)
    return payload
