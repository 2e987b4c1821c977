"""The one registry of networks: a network is one file of this folder and one line here. Imports no torch."""

from __future__ import annotations

ENCODERS: dict[str, str] = {
    "sasrec": "sasrec.SASRec",
    "bert4rec": "bert4rec.BERT4Rec",
}
"""Name to ``file.class`` in this folder; the class is a `rec_models.encoders.base.Encoder`."""
