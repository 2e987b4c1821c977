"""What every encoder has: the tied item table, positions counted from the end, and a stack of blocks."""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from rec_models.encoders.embedding import Lookup, lookup
from rec_models.encoders.packing import Layout, layout_of
from rec_models.encoders.settings import ModelSettings
from rec_models.encoders.transformer import INIT_STD, Block


class Encoder(nn.Module):
    """A transformer over item ids.

    Args:
        settings: the network.
        num_items: V, the rows of the item table.

    Raises:
        ValueError: V is below 2.
    """

    causal: ClassVar[bool]
    feed_factor: ClassVar[int]
    """Width of the feed-forward nets' inner layers, in D: as each model was published."""

    def __init__(self, settings: ModelSettings, num_items: int) -> None:
        super().__init__()
        if num_items < 2:
            raise ValueError(f"num_items: found {num_items}, allowed: 2 or more, a catalogue of one item ranks nothing")
        self.settings = settings
        self.num_items = num_items
        self.item_table = nn.Parameter(torch.empty(num_items, settings.hidden))  # [V, D]
        self.position_table = nn.Parameter(torch.empty(settings.max_seq_len, settings.hidden))  # row 0: the last place
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings, causal=self.causal, feed_factor=self.feed_factor) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(settings.hidden)  # norm=pre: of what the blocks return; post: of the embeddings
        self.lookup: Lookup = lookup
        """How rows of the item table are looked up; training chooses what becomes of their gradient."""
        self.layout_of = layout_of
        """How histories are packed; exporting takes `padded_layout_of`."""
        self.autocast_dtype: torch.dtype | None = None
        """The dtype of matrix products in `encode_last`, under autocast; None: as the caller has it. Training and
        loading set it on a GPU, so that ranking computes as training does, and by the same kernels."""
        nn.init.normal_(self.item_table, std=INIT_STD)
        nn.init.normal_(self.position_table, std=INIT_STD)

    def forward(self, inputs: Tensor, lengths: Tensor, masked: Tensor | None = None) -> Tensor:
        """Encode every place of every history.

        Args:
            inputs: [B, L] int64 item ids, right-padded; what stands at padded places makes no difference.
            lengths: [B] int64, from 1 to L.
            masked: [B, L] bool, the places where the mask vector stands instead of the item; BERT4Rec only.

        Returns:
            [B, L, D], zeros at padded places.

        Raises:
            ValueError: L is above ``max_seq_len``, or masked was given to a model without a mask vector.
        """
        layout = layout_of(lengths, inputs.shape[1])
        packed = self.encode_packed(layout.pack(inputs), layout, None if masked is None else layout.pack(masked))
        return layout.pad(packed)

    def encode_packed(self, items: Tensor, layout: Layout, masked: Tensor | None = None) -> Tensor:
        """Encode packed histories: no padding anywhere, and no waiting for the device.

        Args:
            items: [T] int64.
            layout: of the T places.
            masked: [T] bool, as in `forward`.

        Returns:
            [T, D].

        Raises:
            ValueError: as `forward`.
        """
        return self.transform(self.embed(items, layout, masked), layout)

    def embed(self, items: Tensor, layout: Layout, masked: Tensor | None = None) -> Tensor:
        """Items and their places as vectors, [T, D], scaled as the settings say; arguments as of `encode_packed`.

        Raises:
            ValueError: as `forward`.
        """
        if layout.width > self.settings.max_seq_len:
            raise ValueError(f"inputs: found {layout.width} places, allowed: max_seq_len = {self.settings.max_seq_len}")
        # Counted from the end: the same distance to the prediction is the same row, whatever the length.
        places = nn.functional.embedding(layout.from_end, self.position_table)  # [T, D]
        vectors = self._embed_items(items, masked)
        if self.settings.scale_embeddings:
            vectors = vectors * math.sqrt(self.settings.hidden)
        return vectors + places

    def transform(self, x: Tensor, layout: Layout) -> Tensor:
        """The network between embeddings and scores: x [T, D] and its layout to [T, D]; compiles whole."""
        post = self.settings.norm == "post"  # the last block then ends with a norm of its own
        x = self.dropout(self.norm(x) if post else x)
        for block in self.blocks:
            x = block(x, layout)
        hidden: Tensor = x if post else self.norm(x)
        return hidden

    @abstractmethod
    def encode_last(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The vector that ranks the item after each history.

        Args:
            inputs: [B, L] int64 item ids, right-padded.
            lengths: [B] int64, from 1 to L.

        Returns:
            [B, D] in the dtype of the weights, matrix products in `autocast_dtype`.

        Raises:
            ValueError: L is above ``max_seq_len``.
        """

    def _embed_items(self, items: Tensor, masked: Tensor | None) -> Tensor:
        """[T] ids to [T, D] vectors."""
        if masked is not None:
            raise ValueError(f"masked: found a tensor, allowed: None, because {self.settings.model} has no mask vector")
        return self.lookup(items, self.item_table)

    def _encode_ends(self, inputs: Tensor, lengths: Tensor, masked: Tensor | None = None) -> Tensor:
        """[B, L] histories to the [B, D] vectors at their last places."""
        layout = self.layout_of(lengths, inputs.shape[1])
        chosen = self.autocast_dtype
        with nullcontext() if chosen is None else torch.autocast(inputs.device.type, chosen):
            packed = self.encode_packed(layout.pack(inputs), layout, None if masked is None else layout.pack(masked))
        return packed.index_select(0, layout.ends)
