"""A trained encoder as a program of its own: runs where torch is and this package is not, C++ included."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from rec_models.backbones import Encoder
from rec_models.backbones.layout import padded_layout_of
from rec_models.backbones.lookup import lookup


def export(encoder: Encoder, path: str | Path) -> None:
    """Write ``encode_last`` with its weights as a `torch.export` program (usually ``.pt2``).

    The program takes inputs [B, max_seq_len] int64, right-padded, and lengths [B] int64, for any B, and returns the
    vectors [B, D] and the scores of the whole catalogue [B, V], in the dtype of the weights whatever the encoder's
    precision. Read it with ``torch.export.load(path).module()``.

    Args:
        encoder: a trained encoder; it is left as it was.
        path: the file to write, under a temporary name until it is whole; its folder is made.
    """
    target = Path(path)
    width = encoder.settings.max_seq_len
    example = (torch.zeros(2, width, dtype=torch.int64), torch.tensor([1, width]))
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(_Ranker(encoder).cpu().eval(), example, dynamic_shapes=({0: batch}, {0: batch}))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.part{target.suffix}")
    torch.export.save(program, temporary)
    temporary.replace(target)


class _Ranker(nn.Module):
    """From histories to vectors and scores, in shapes that depend on shapes alone."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.lookup = lookup
        self.encoder.layout_of = padded_layout_of
        self.encoder.autocast_dtype = None

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Args: inputs [B, L] int64, lengths [B] int64. Returns [B, D] and [B, V]."""
        vectors = self.encoder.encode_last(inputs, lengths)
        return vectors, vectors @ self.encoder.item_table.T
