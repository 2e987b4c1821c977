"""One pre-norm transformer block over packed histories."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rec_models.backbones.attention import attend
from rec_models.backbones.layout import Layout

INIT_STD = 0.02  # keeps the first scores near 0, so that the first loss is that of a guess


class Block(nn.Module):
    """Attention and a feed-forward net, each normalised first and added to what came in.

    Args:
        width: D.
        heads: attention heads; D / heads values each.
        dropout: share of activations set to zero in training, after each of the two.
        causal: no place looks at a later one.
        feed_factor: width of the feed-forward net's inner layer, in D.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool, feed_factor: int) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, feed_factor * width)
        self.feed_out = nn.Linear(feed_factor * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query_key_value, self.attention_out, self.feed_in, self.feed_out):
            nn.init.normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Args: x [T, D] packed, and its layout. Returns [T, D]."""
        qkv = self.query_key_value(self.attention_norm(x)).view(x.shape[0], 3, self.heads, -1)  # [T, 3, H, d]
        x = x + self.dropout(self.attention_out(attend(qkv, layout, causal=self.causal)))
        inner = functional.gelu(self.feed_in(self.feed_norm(x)))  # [T, feed_factor * D]
        out: Tensor = x + self.dropout(self.feed_out(inner))
        return out
