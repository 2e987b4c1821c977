"""One pre-norm transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_INIT_STD = 0.02


class Block(nn.Module):
    """Attention and a feed-forward net, each normalised first and added to what came in.

    Args:
        width: D.
        heads: attention heads; D / heads values each.
        dropout: share of activations set to zero in training.
        causal: no place looks at a later one.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.dropout_share = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query_key_value, self.attention_out, self.feed_in, self.feed_out):
            nn.init.normal_(layer.weight, std=_INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """Args: x [B, L, D]; keys [B, 1, 1, L] bool, True for places that may be looked at. Returns [B, L, D].

        A causal block takes no keys: under right padding no real place comes after a padded one.
        """
        x = x + self.dropout(self._attend(self.attention_norm(x), keys))
        inner = functional.gelu(self.feed_in(self.feed_norm(x)))  # [B, L, 4 D]
        fed: Tensor = x + self.dropout(self.feed_out(inner))
        return fed

    def _attend(self, x: Tensor, keys: Tensor | None) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.query_key_value(x).view(rows, length, 3, self.heads, width // self.heads).unbind(2)
        attended = functional.scaled_dot_product_attention(
            q.transpose(1, 2),  # [B, H, L, D / H]
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=keys,
            dropout_p=self.dropout_share if self.training else 0.0,
            is_causal=self.causal,
        )
        out: Tensor = self.attention_out(attended.transpose(1, 2).reshape(rows, length, width))
        return out


def last_rows(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Args: hidden [B, L, D]; lengths [B]. Returns [B, D], the row at the last item of each history."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1]
