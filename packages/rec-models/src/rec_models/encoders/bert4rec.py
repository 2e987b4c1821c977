"""BERT4Rec (Sun et al., 2019): predicts masked places from the items on both sides."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cce_kernels.shard import Rows
from rec_models.encoders.base import Encoder, MakeLayout
from rec_models.encoders.settings import ModelSettings
from rec_models.encoders.transformer import draw_weights


class BERT4Rec(Encoder):
    """A bidirectional encoder; see `Encoder` for the shapes.

    The mask vector is a separate parameter and not a row of the item table, so it is never in the softmax.
    """

    causal: ClassVar[bool] = False
    feed_factor: ClassVar[int] = 4

    def __init__(self, settings: ModelSettings, num_items: int, rows: Rows | None = None) -> None:
        super().__init__(settings, num_items, rows)
        self.mask_vector = nn.Parameter(torch.empty(settings.hidden))  # [D]
        draw_weights(self.mask_vector, settings)

    def encode_ends(self, items: Tensor, ends: Tensor, lengths: Tensor, make_layout: MakeLayout) -> Tensor:
        """The vector at a mask that follows the last item; a full history drops its oldest item to make room.

        See `Encoder.encode_ends` for the arguments.
        """
        layout = make_layout((lengths + 1).clamp_max(self.settings.max_seq_len))
        row = layout.places // layout.width  # [T']
        source = ends[row] - (layout.from_end - 1).clamp_min(0)  # [T']; at the mask any item will do
        return self._last_vectors(items[source], layout, layout.from_end == 0)

    def _embed_items(self, items: Tensor, masked: Tensor | None) -> Tensor:
        vectors = self.lookup(items, self.item_table)
        return vectors if masked is None else torch.where(masked[:, None], self.mask_vector, vectors)
