"""Networks that turn a history into a vector, and the registry that names them (`rec_models.encoders.registry`).

Importing this package imports no torch; `build_encoder` imports the file of the network that it builds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rec_models.encoders.registry import ENCODERS
from rec_models.encoders.settings import ModelSettings

if TYPE_CHECKING:
    from cce_kernels.shard import Rows
    from rec_models.encoders.base import Encoder


def build_encoder(settings: ModelSettings, num_items: int, rows: Rows | None = None) -> Encoder:
    """A new encoder of V items, 2 or more, with random weights drawn from torch's global generator.

    With `rows` it has only those of the item table.
    """
    file, _, name = ENCODERS[settings.model].build.partition(".")
    encoder: Encoder = getattr(importlib.import_module(f"{__name__}.{file}"), name)(settings, num_items, rows)
    return encoder


def __getattr__(name: str) -> Any:
    """`Encoder`, imported with torch at its first use."""
    if name == "Encoder":
        from rec_models.encoders.base import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ENCODERS", "Encoder", "build_encoder"]
