"""What every encoder has: the tied item table, positions counted from the end, and a stack of blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from cce_kernels.hardware import is_ampere_or_newer
from cce_kernels.shard import Rows, Shard
from rec_models.encoders.embedding import Lookup, lookup, lookup_into_grad
from rec_models.encoders.packing import Layout, layout_of
from rec_models.encoders.settings import ModelSettings
from rec_models.encoders.transformer import NORM_EPS, Block, draw_rows, draw_weights

MakeLayout = Callable[[Tensor], Layout]  # from the lengths of histories, [B] int64


def fuses(encoder: Encoder, layout: Layout) -> bool:
    """Whether `rec_models.encoders.fused` computes what an encoder is asked for.

    It takes packed histories and products in 16 bits, on an Ampere or newer, and most settings (`Backbone.fusible`).
    """
    table = encoder.item_table
    half = is_ampere_or_newer(table.device) and torch.is_autocast_enabled("cuda") and table.dtype == torch.float32
    packed = layout.keys is None and layout.places.shape[0] > 0 and layout.rows * layout.width < 2**32
    return encoder.settings.fusible and half and packed and not torch.compiler.is_compiling()


class Encoder(nn.Module):
    """A transformer over item ids; `num_items` is V, the rows of the item table, 2 or more.

    With `rows` it has only those of the item table, with the weights that one process draws for them.
    """

    causal: ClassVar[bool]
    feed_factor: ClassVar[int]  # width of the inner layers of the feed-forward nets, in D, as each model was published

    def __init__(self, settings: ModelSettings, num_items: int, rows: Rows | None = None) -> None:
        super().__init__()
        if num_items < 2:
            raise ValueError(f"num_items: found {num_items}, allowed: 2 or more, a catalogue of one item ranks nothing")
        self.settings = settings
        self.num_items = num_items
        rows = rows or Rows(num_items, 1, 0)
        self.item_table = nn.Parameter(torch.empty(rows.number, settings.hidden))  # [V, D], or own rows with a `shard`
        self.position_table = nn.Parameter(torch.empty(settings.max_seq_len, settings.hidden))  # row 0: the last place
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings, causal=self.causal, feed_factor=self.feed_factor) for _ in range(settings.blocks)
        )
        # norm=post: of the embeddings; else: of what the blocks return
        self.norm = nn.LayerNorm(settings.hidden, eps=NORM_EPS[settings.norm])
        self.lookup: Lookup = lookup  # of the item table; training chooses how its gradient is computed
        self.shard: Shard | None = None
        """Which rows of the item table this process has in training over several; None: all."""
        self.autocast_dtype: torch.dtype | None = None
        """The autocast dtype of matrix products in `encode_last`; None: as the caller has it. Training and loading set
        it on a GPU, so that ranking computes as training does, with the same kernels."""
        self.catalogue: str | None = None
        """The hash of the items' ids that this was trained with; None: not known. Loading sets it, export keeps it."""
        self.log: str | None = None
        """The hash of the log that this was trained with; None: not known. Loading sets it."""
        draw_rows(self.item_table, settings, rows)
        draw_weights(self.position_table, settings)

    def forward(
        self, items: Tensor, layout: Layout, masked: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Encode every place of packed histories; does not wait for the device.

        Args:
            items: [T] int64 item ids.
            layout: of the T places.
            masked: [T] bool, the places where the mask vector replaces the item; BERT4Rec only.
            dtype: of the result; None: that of the weights.

        Returns:
            [T, D].

        Raises:
            ValueError: a history is longer than ``max_seq_len``, or the model has no mask vector.
        """
        if masked is None and self.lookup is lookup_into_grad and fuses(self, layout):
            self._check_width(layout)
            return self.fused(items, layout, torch.get_autocast_dtype("cuda"), dtype or self.item_table.dtype)
        return self.transform(self.embed(items, layout, masked), layout, dtype)

    def embed(self, items: Tensor, layout: Layout, masked: Tensor | None = None) -> Tensor:
        """Items and their positions as vectors, [T, D], scaled as the settings say; see `forward`."""
        self._check_width(layout)
        # Counted from the end: the same distance to the prediction has the same row, whatever the length.
        places = nn.functional.embedding(layout.from_end, self.position_table)  # [T, D]
        vectors = self._embed_items(items, masked)
        if self.settings.scale_embeddings:
            vectors = vectors * math.sqrt(self.settings.hidden)
        return vectors + places

    def transform(self, x: Tensor, layout: Layout, dtype: torch.dtype | None = None) -> Tensor:
        """The network between embeddings and scores: x [T, D] and its layout to [T, D]; compiles as one graph.

        `dtype` is that of the result; None: of the weights. On a GPU in 16 bits most settings run in the kernels of
        `rec_models.encoders.fused`, unless the network is compiled.
        """
        if fuses(self, layout):
            return self.fused(x, layout, torch.get_autocast_dtype("cuda"), dtype or x.dtype)
        hidden = self._transform(x, layout)
        return hidden if dtype is None else hidden.to(dtype)

    def _transform(self, x: Tensor, layout: Layout) -> Tensor:
        post = self.settings.norm == "post"  # the last block then ends with its own norm
        x = self.dropout(self.norm(x) if post else x)
        for block in self.blocks:
            x = block(x, layout)
        hidden: Tensor = x if post else self.norm(x)
        return hidden

    def fused(self, source: Tensor, layout: Layout, products: torch.dtype, result: torch.dtype) -> Tensor:
        """`transform` in the kernels of `rec_models.encoders.fused`, whatever `fuses` says of the device.

        The source is x fp32 [T, D], or items int64 [T] to embed: their gradient is that of `lookup_into_grad`.
        `products` is the dtype of matrix products, `result` that of what is returned, [T, D].
        """
        from rec_models.encoders.fused.attention import Heads
        from rec_models.encoders.fused.network import Plan, run
        from rec_models.encoders.fused.residual import Embeddings

        settings, x, start = self.settings, source, None
        if not source.is_floating_point():
            factor = math.sqrt(settings.hidden) if settings.scale_embeddings else 1.0
            start = Embeddings(self.item_table, source, layout.from_end, self.position_table, factor)
            x = self.position_table
        dropout = settings.dropout if self.training else 0.0
        heads = Heads(settings.heads, self.causal)
        plan = Plan(heads, settings.activation, self.norm.eps, dropout, products, result)
        layers = [layer for block in self.blocks for layer in block.layers()]  # type: ignore[operator]
        parameters = [tensor for layer in (*layers, self.norm) for tensor in (layer.weight, layer.bias)]
        return run(x, start, layout, plan, parameters)

    def encode_last(self, items: Tensor, offsets: Tensor) -> Tensor:
        """The vectors that rank the item after each history; on a GPU this waits for the device.

        Args:
            items: [T] int64 item ids; history i is ``items[offsets[i] : offsets[i + 1]]``.
            offsets: [B + 1] int64; each history has from 1 to ``max_seq_len`` items.

        Returns:
            [B, D] in the dtype of the weights, matrix products in `autocast_dtype`.

        Raises:
            ValueError: a history is longer than ``max_seq_len``.
        """
        return self.encode_ends(items, offsets[1:] - 1, offsets.diff(), layout_of)

    def encode_ends(self, items: Tensor, ends: Tensor, lengths: Tensor, make_layout: MakeLayout) -> Tensor:
        """`encode_last` for items [T] int64 in any layout, which a model may ask to have longer histories.

        `ends` [B] int64 has the place of each history's last item among the T, `lengths` is [B] int64.
        """
        return self._last_vectors(items, make_layout(lengths))

    def _last_on_cpu(self, x: Tensor, layout: Layout) -> Tensor:
        """`_transform` at the last places alone, which need little of the last block: x [T, D] to [B, D]."""
        post = self.settings.norm == "post"
        x = self.norm(x) if post else x
        *first, last = self.blocks
        for block in first:
            x = block(x, layout)
        hidden: Tensor = last.last(x, layout)  # type: ignore[operator]
        return hidden if post else self.norm(hidden)

    def _check_width(self, layout: Layout) -> None:
        if layout.width > self.settings.max_seq_len:
            raise ValueError(f"items: found {layout.width} places, allowed: max_seq_len = {self.settings.max_seq_len}")

    def _embed_items(self, items: Tensor, masked: Tensor | None) -> Tensor:
        """[T] ids to [T, D] vectors."""
        if masked is not None:
            raise ValueError(f"masked: found a tensor, allowed: None, because {self.settings.model} has no mask vector")
        return self.lookup(items, self.item_table)

    def _last_vectors(self, items: Tensor, layout: Layout, masked: Tensor | None = None) -> Tensor:
        """Histories [T] to the [B, D] vectors at their last places."""
        chosen = self.autocast_dtype
        packed = layout.keys is None and not torch.compiler.is_compiling()
        if items.device.type == "cpu" and chosen is None and packed and not self.training:
            return self._last_on_cpu(self.embed(items, layout, masked), layout)
        with nullcontext() if chosen is None else torch.autocast(items.device.type, chosen):
            hidden: Tensor = self(items, layout, masked)
        return hidden.index_select(0, layout.ends)
