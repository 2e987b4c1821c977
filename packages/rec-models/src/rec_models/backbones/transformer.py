"""One transformer block over packed histories."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from rec_models.backbones.attention import attend
from rec_models.backbones.layout import Layout
from rec_models.settings import ModelSettings

INIT_STD = 0.02  # keeps the first scores near 0, so that the first loss is that of a guess
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


class Block(nn.Module):
    """Attention and a feed-forward net, each added to what came in, and normalised before or after.

    Args:
        settings: the network.
        causal: no place looks at a later one.
        feed_factor: width of the feed-forward net's inner layer, in D.
    """

    def __init__(self, settings: ModelSettings, *, causal: bool, feed_factor: int) -> None:
        super().__init__()
        width = settings.hidden
        self.settings = settings
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, feed_factor * width)
        self.feed_out = nn.Linear(feed_factor * width, width)
        self.dropout = nn.Dropout(settings.dropout)
        for layer in (self.query_key_value, self.attention_out, self.feed_in, self.feed_out):
            nn.init.normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Args: x [T, D] packed, and its layout. Returns [T, D]."""
        if self.settings.norm == "post":
            x = self.attention_norm(x + self._attention(x, layout))
            out: Tensor = self.feed_norm(x + self._feed(x))
            return out
        x = x + self._attention(self.attention_norm(x), layout)
        return x + self._feed(self.feed_norm(x))

    def _attention(self, x: Tensor, layout: Layout) -> Tensor:
        qkv = self.query_key_value(x).view(x.shape[0], 3, self.settings.heads, -1)  # [T, 3, H, d]
        dropout = self.settings.attention_dropout if self.training else 0.0
        out: Tensor = self.dropout(self.attention_out(attend(qkv, layout, causal=self.causal, dropout=dropout)))
        return out

    def _feed(self, x: Tensor) -> Tensor:
        inner = _ACTIVATIONS[self.settings.activation](self.feed_in(x))  # [T, feed_factor * D]
        out: Tensor = self.dropout(self.feed_out(inner))
        return out
