"""SASRec (Kang and McAuley, 2018): every place predicts the item after it from the items up to it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from rec_models.backbones.base import Encoder
from rec_models.backbones.transformer import last_rows


class SASRec(Encoder):
    """A causal encoder; see `Encoder` for the shapes."""

    causal: ClassVar[bool] = True

    def encode_last(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The vector at the last item; see `Encoder.encode_last`."""
        return last_rows(self(inputs, lengths), lengths)

    def _embed_items(self, inputs: Tensor, masked: Tensor | None) -> Tensor:
        if masked is not None:
            raise ValueError("masked: found a tensor, allowed: None, because sasrec has no mask vector")
        return functional.embedding(inputs, self.item_table)
