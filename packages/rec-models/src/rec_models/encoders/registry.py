"""The one registry of networks: a network is one file of this folder and one line here. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class EncoderSpec(NamedTuple):
    """What others need to know about a network; its file is imported when it is built, and torch with it."""

    build: str  # ``file.class`` in this folder, a `rec_models.encoders.base.Encoder`
    title: str  # as the paper writes it
    masked: bool = False  # it learns to fill masked items in; otherwise it learns to predict the next item


ENCODERS: dict[str, EncoderSpec] = {
    "sasrec": EncoderSpec("sasrec.SASRec", "SASRec"),
    "bert4rec": EncoderSpec("bert4rec.BERT4Rec", "BERT4Rec", masked=True),
}
