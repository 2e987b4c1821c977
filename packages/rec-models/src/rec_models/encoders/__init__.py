"""Networks that turn a history into a vector, and the registry of their names."""

from __future__ import annotations

from rec_models.config import ModelSettings
from rec_models.encoders.base import Encoder
from rec_models.encoders.bert4rec import BERT4Rec
from rec_models.encoders.sasrec import SASRec

BACKBONES: dict[str, type[Encoder]] = {"sasrec": SASRec, "bert4rec": BERT4Rec}


def build_encoder(settings: ModelSettings, num_items: int) -> Encoder:
    """A new encoder with random weights, drawn from torch's global generator.

    Args:
        settings: the network.
        num_items: V, the rows of the item table.

    Raises:
        ValueError: V is below 2.
    """
    return BACKBONES[settings.model](settings, num_items)


__all__ = ["BACKBONES", "BERT4Rec", "Encoder", "SASRec", "build_encoder"]
