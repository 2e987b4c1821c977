"""BERT4Rec (Sun et al., 2019): masked places are predicted from the items on both sides."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rec_models.encoders.base import Encoder
from rec_models.encoders.settings import ModelSettings
from rec_models.encoders.transformer import INIT_STD


class BERT4Rec(Encoder):
    """A bidirectional encoder; see `Encoder` for the shapes.

    The mask vector is a parameter of its own: no row of the item table, and so never in the softmax.
    """

    causal: ClassVar[bool] = False
    feed_factor: ClassVar[int] = 4

    def __init__(self, settings: ModelSettings, num_items: int) -> None:
        super().__init__(settings, num_items)
        self.mask_vector = nn.Parameter(torch.empty(settings.hidden))  # [D]
        nn.init.normal_(self.mask_vector, std=INIT_STD)

    def encode_last(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The vector at a mask put after the last item; a full history loses its oldest item to make room.

        See `Encoder.encode_last` for the shapes.
        """
        width = min(inputs.shape[1] + 1, self.settings.max_seq_len)
        longer = (lengths + 1).clamp_max(width)  # [B]
        dropped = lengths + 1 - longer  # [B], 1 where the history is full
        places = torch.arange(width, device=inputs.device)  # [L']
        source = (places + dropped[:, None]).clamp_max(inputs.shape[1] - 1)  # [B, L']
        masked = places == longer[:, None] - 1  # [B, L']
        return self._encode_ends(inputs.gather(1, source), longer, masked)

    def _embed_items(self, items: Tensor, masked: Tensor | None) -> Tensor:
        vectors = self.lookup(items, self.item_table)
        return vectors if masked is None else torch.where(masked[:, None], self.mask_vector, vectors)
