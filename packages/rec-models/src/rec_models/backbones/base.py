"""What every encoder has: the tied item table, positions counted from the end, and a stack of blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from rec_models.backbones.transformer import Block
from rec_models.settings import ModelSettings

_INIT_STD = 0.02  # keeps the first scores near 0, so that the first loss is log V


class Encoder(nn.Module):
    """A transformer over item ids.

    Args:
        settings: the network.
        num_items: V, the rows of the item table.

    Raises:
        ValueError: V is below 2.
    """

    causal: ClassVar[bool]

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
            Block(settings.hidden, settings.heads, settings.dropout, causal=self.causal) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(settings.hidden)
        nn.init.normal_(self.item_table, std=_INIT_STD)
        nn.init.normal_(self.position_table, std=_INIT_STD)

    def forward(self, inputs: Tensor, lengths: Tensor, masked: Tensor | None = None) -> Tensor:
        """Encode every place of every history.

        Args:
            inputs: [B, L] int64 item ids, right-padded; what stands at padded places makes no difference.
            lengths: [B] int64, from 1 to L.
            masked: [B, L] bool, the places where the mask vector stands instead of the item; BERT4Rec only.

        Returns:
            [B, L, D]. Rows at padded places are finite and mean nothing.

        Raises:
            ValueError: L is above ``max_seq_len``, or masked was given to a model without a mask vector.
        """
        width = inputs.shape[1]
        if width > self.settings.max_seq_len:
            raise ValueError(f"inputs: found {width} places, allowed: max_seq_len = {self.settings.max_seq_len}")
        x = self._embed_items(inputs, masked)  # [B, L, D]
        places = torch.arange(width, device=inputs.device)  # [L]
        # Counted from the end: the same distance to the prediction is the same row, whatever the length.
        from_end = (lengths[:, None] - 1 - places).clamp_min(0)  # [B, L]
        x = self.dropout(x + nn.functional.embedding(from_end, self.position_table))
        keys = None if self.causal else self._key_mask(places, lengths)
        for block in self.blocks:
            x = block(x, keys)
        hidden: Tensor = self.norm(x)
        return hidden

    @abstractmethod
    def encode_last(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The vector that ranks the item after each history.

        Args:
            inputs: [B, L] int64 item ids, right-padded.
            lengths: [B] int64, from 1 to L.

        Returns:
            [B, D].
        """

    @abstractmethod
    def _embed_items(self, inputs: Tensor, masked: Tensor | None) -> Tensor:
        """[B, L] ids to [B, L, D] vectors."""

    @staticmethod
    def _key_mask(places: Tensor, lengths: Tensor) -> Tensor:
        """[B, 1, 1, L] bool, True where a history has an item: the places that may be looked at."""
        return (places < lengths[:, None])[:, None, None, :]
