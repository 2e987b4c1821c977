"""One transformer block over packed histories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cce_kernels.hardware import is_ampere_or_newer
from cce_kernels.shard import Rows
from rec_models.encoders.packing import Layout, blocks_of
from rec_models.encoders.settings import ModelSettings

if torch.cuda.is_available():  # the import loads torch's compiler, which takes seconds and is of no use on a CPU
    from torch.nn.attention.varlen import varlen_attn

_HALF = (torch.bfloat16, torch.float16)
_BLOCKS = 8  # of histories of similar length; more of them make operations too small


def attend(qkv: Tensor, layout: Layout, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """Scaled dot product attention within each history: torch's variable-length kernel if possible, padded otherwise.

    A CPU pads histories of similar length together, unless the network is compiled, as one graph for all lengths.
    From qkv [T, 3, H, d], the queries, keys and values of packed histories, to [T, H * d]. `causal`: no place attends
    to a later one. `dropout`: share of attention weights set to zero, the others scaled up; above 0 histories are
    padded.
    """
    if qkv.dtype in _HALF and dropout == 0 and is_ampere_or_newer(qkv.device):
        return _attend_packed(qkv, layout, causal=causal)
    in_blocks = qkv.device.type == "cpu" and dropout == 0 and not torch.compiler.is_compiling()
    if in_blocks and layout.keys is None and not layout.is_full:
        return _attend_in_blocks(qkv, layout, causal=causal)
    return _attend_padded(qkv, layout, causal=causal, dropout=dropout)


def _attend_packed(qkv: Tensor, layout: Layout, *, causal: bool) -> Tensor:
    """Flash attention on the packed places: no cost for padding."""
    q, k, v = qkv.unbind(1)  # [T, H, d]
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q, k, v, layout.starts, layout.starts, layout.width, layout.width, window_size=window)
    assert isinstance(out, Tensor)
    return out.flatten(1)


def _attend_in_blocks(qkv: Tensor, layout: Layout, *, causal: bool) -> Tensor:
    """What `_attend_padded` computes, with the padding of each block instead of that of the whole batch."""
    blocks = blocks_of(layout, _BLOCKS)
    sizes = [rows * width for rows, width in blocks.shapes]
    padded = qkv.new_zeros(sum(sizes), *qkv.shape[1:]).index_copy(0, blocks.places, qkv)
    lengths = torch.split(blocks.lengths, [rows for rows, _ in blocks.shapes])
    found = []
    for part, (rows, width), held in zip(torch.split(padded, sizes), blocks.shapes, lengths, strict=True):
        parts = part.view(rows, width, *part.shape[1:]).unbind(2)
        q, k, v = (one.transpose(1, 2) for one in parts)  # [rows, H, width, d]
        mask = None if causal else (torch.arange(width) < held[:, None])[:, None, None, :]
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, blocks.places).flatten(1)


def attend_last(query: Tensor, keys_values: Tensor, layout: Layout) -> Tensor:
    """What `attend` computes at the last place of each history, where a causal network attends to all places too.

    From query [B, H, d] of these places and keys_values [T, 2, H, d] of all places to [B, H * d].
    """
    blocks = blocks_of(layout, _BLOCKS)
    sizes = [rows * width for rows, width in blocks.shapes]
    padded = keys_values.new_zeros(sum(sizes), *keys_values.shape[1:]).index_copy(0, blocks.places, keys_values)
    queries = query.index_select(0, blocks.order)[:, :, None]  # [B, H, 1, d]
    found, first = [], 0
    for part, (rows, width) in zip(torch.split(padded, sizes), blocks.shapes, strict=True):
        own = slice(first, first + rows)
        k, v = (one.transpose(1, 2) for one in part.view(rows, width, *part.shape[1:]).unbind(2))  # [rows, H, width, d]
        mask = (torch.arange(width) < blocks.lengths[own, None])[:, None, None, :]
        found.append(functional.scaled_dot_product_attention(queries[own], k, v, attn_mask=mask))
        first += rows
    return torch.empty_like(query).index_copy(0, blocks.order, torch.cat(found).squeeze(2)).flatten(1)


def _attend_padded(qkv: Tensor, layout: Layout, *, causal: bool, dropout: float = 0.0) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in layout.pad(qkv).unbind(2))  # [B, H, L, d]
    # With padding on the right a causal place never attends to padding, so only the bidirectional model needs the mask.
    mask = None if causal else layout.key_mask()
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return layout.pack(out.transpose(1, 2)).flatten(1)


_DRAWN_ROWS = 1 << 16  # of an item table at a time; a multiple of 64
INIT_STD = 0.02  # keeps the first scores near 0, so that the first loss is that of a uniform guess
NORM_EPS = {"pre": 1e-5, "post": 1e-5, "query": 1e-8}  # of layer norms, by `Backbone.norm`, as each was published
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


def draw_weights(weights: Tensor, settings: ModelSettings) -> None:
    """Draw weights as `Backbone.initialization` says, unless they are to be loaded (on the meta device)."""
    if weights.is_meta:  # there normal_ would import torch's compiler, which takes a second
        return
    if settings.initialization == "xavier" and weights.dim() > 1:
        nn.init.xavier_normal_(weights)
    else:
        nn.init.normal_(weights, std=INIT_STD)


def draw_rows(table: Tensor, settings: ModelSettings, rows: Rows) -> None:
    """`draw_weights` for some rows [n, D] of an item table: the numbers that they have in the whole one."""
    if rows.ranks == 1 or table.is_meta:
        draw_weights(table, settings)
        return
    num_items, width = rows.num_items, settings.hidden
    std = math.sqrt(2 / (num_items + width)) if settings.initialization == "xavier" else INIT_STD
    # torch draws blocks of 16 numbers and the last 16 again: all parts but the last have whole blocks, it has 16.
    starts = range(0, max(1, num_items - 15), _DRAWN_ROWS)
    done = 0
    for start, end in zip(starts, [*starts[1:], num_items], strict=True):
        part = torch.empty(end - start, width, dtype=table.dtype).normal_(std=std)
        own = replace(rows, num_items=end - start).of(part)
        table.data[done : done + len(own)] = own
        done += len(own)


class Block(nn.Module):
    """Attention and a feed-forward net, each with a residual connection and a norm, placed as `Backbone.norm` says.

    `causal`: no place attends to a later one; `feed_factor`: width of the feed-forward net's inner layer, in D.
    """

    def __init__(self, settings: ModelSettings, *, causal: bool, feed_factor: int) -> None:
        super().__init__()
        width = settings.hidden
        self.settings = settings
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS[settings.norm])
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, eps=NORM_EPS[settings.norm])
        self.feed_in = nn.Linear(width, feed_factor * width)
        self.feed_out = nn.Linear(feed_factor * width, width)
        self.dropout = nn.Dropout(settings.dropout)
        for layer in (self.query_key_value, self.attention_out, self.feed_in, self.feed_out):
            draw_weights(layer.weight, settings)
            if settings.initialization == "normal" or layer in (self.query_key_value, self.attention_out):
                nn.init.zeros_(layer.bias)

    def layers(self) -> tuple[nn.LayerNorm | nn.Linear, ...]:
        """The layers in the order of use."""
        attention = self.attention_norm, self.query_key_value, self.attention_out
        return *attention, self.feed_norm, self.feed_in, self.feed_out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Args: x [T, D] packed, and its layout. Returns [T, D]."""
        if self.settings.norm == "query":
            query = self.attention_norm(x)
            x = self.feed_norm(query + self._attend(self._project(query, x), layout))
            return x + self._feed(x)
        if self.settings.norm == "post":
            x = self.attention_norm(x + self._attention(x, layout))
            out: Tensor = self.feed_norm(x + self._feed(x))
            return out
        x = x + self._attention(self.attention_norm(x), layout)
        return x + self._feed(self.feed_norm(x))

    def last(self, x: Tensor, layout: Layout) -> Tensor:
        """What `forward` returns at the last place of each history, [B, D], in eval mode on a CPU."""
        norm, ends, width = self.settings.norm, x.index_select(0, layout.ends), self.settings.hidden
        source = self.attention_norm(x) if norm == "pre" else x
        query = source.index_select(0, layout.ends) if norm == "pre" else ends
        query = self.attention_norm(query) if norm == "query" else query
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        heads = self.settings.heads
        queries = functional.linear(query, weight[:width], bias[:width]).view(ends.shape[0], heads, -1)  # [B, H, d]
        keys_values = functional.linear(source, weight[width:], bias[width:]).view(x.shape[0], 2, heads, -1)
        attended = self.attention_out(attend_last(queries, keys_values, layout))
        if norm == "query":
            ends = self.feed_norm(query + attended)
            out: Tensor = ends + self._feed(ends)
        elif norm == "post":
            ends = self.attention_norm(ends + attended)
            out = self.feed_norm(ends + self._feed(ends))
        else:
            ends = ends + attended
            out = ends + self._feed(self.feed_norm(ends))
        return out

    def _attention(self, x: Tensor, layout: Layout) -> Tensor:
        out: Tensor = self.dropout(self._attend(self.query_key_value(x), layout))
        return out

    def _project(self, query: Tensor, x: Tensor) -> Tensor:
        """Queries of one input, keys and values of another, both [T, D], to [T, 3 * D]."""
        width = self.settings.hidden
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        keys_values = functional.linear(x, weight[width:], bias[width:])
        return torch.cat((functional.linear(query, weight[:width], bias[:width]), keys_values), dim=1)

    def _attend(self, projected: Tensor, layout: Layout) -> Tensor:
        qkv = projected.view(projected.shape[0], 3, self.settings.heads, -1)  # [T, 3, H, d]
        dropout = self.settings.attention_dropout if self.training else 0.0
        out: Tensor = self.attention_out(attend(qkv, layout, causal=self.causal, dropout=dropout))
        return out

    def _feed(self, x: Tensor) -> Tensor:
        inner = self.feed_in(x)  # [T, feed_factor * D]
        if self.settings.norm == "query":
            inner = self.dropout(inner)
        out: Tensor = self.dropout(self.feed_out(_ACTIVATIONS[self.settings.activation](inner)))
        return out
