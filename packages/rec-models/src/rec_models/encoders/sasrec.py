"""SASRec (Kang and McAuley, 2018): every place predicts the item after it from the items up to it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from rec_models.encoders.base import Encoder


class SASRec(Encoder):
    """A causal encoder; see `Encoder` for the shapes."""

    causal: ClassVar[bool] = True
    feed_factor: ClassVar[int] = 1

    def encode_last(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The vector at the last item; see `Encoder.encode_last`."""
        return self._encode_ends(inputs, lengths)
