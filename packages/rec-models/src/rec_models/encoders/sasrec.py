"""SASRec (Kang and McAuley, 2018): every place predicts the next item from the items up to it."""

from __future__ import annotations

from typing import ClassVar

from rec_models.encoders.base import Encoder


class SASRec(Encoder):
    """A causal encoder; see `Encoder` for the shapes. The vector at the last item ranks the next one."""

    causal: ClassVar[bool] = True
    feed_factor: ClassVar[int] = 1
