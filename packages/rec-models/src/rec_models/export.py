"""Export a trained encoder as a program that runs with torch alone, without this package, also from C++."""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rec_models.encoders import Encoder
from rec_models.encoders.embedding import lookup
from rec_models.encoders.packing import padded_layout_of


def export(encoder: Encoder, path: str | Path) -> None:
    """Write ``encode_last`` with its weights as a `torch.export` program (usually ``.pt2``).

    The program takes inputs [B, max_seq_len] int64, right-padded, and lengths [B] int64, for any B, and returns the
    vectors [B, D] and the scores of the whole catalogue [B, V], in the dtype of the weights whatever the encoder's
    precision. The extra file ``catalogue`` in it has ``encoder.catalogue``, the hash of the items' ids, if that is
    known. Read it with ``torch.export.load(path).module()``. The file has a temporary name until it is complete,
    and its folder is created. The encoder is not changed.

    Raises:
        ValueError: the path is a folder or cannot be written to; this is checked before the export starts.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part{target.suffix}")
    if target.is_dir():
        raise ValueError(f"path: found {target}, a folder, allowed: a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise ValueError(f"path: found {target} ({error.strerror}), allowed: a file that can be written") from None
    width = encoder.settings.max_seq_len
    example = (torch.zeros(2, width, dtype=torch.int64), torch.tensor([1, width]))
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            ranker = _Ranker(encoder).cpu().eval()
            program = torch.export.export(ranker, example, dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, temporary, extra_files={"catalogue": encoder.catalogue or ""})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class _Ranker(nn.Module):
    """From padded histories to vectors and scores; its shapes do not depend on values."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.lookup = lookup
        self.encoder.autocast_dtype = None

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Args: inputs [B, L] int64, lengths [B] int64. Returns [B, D] and [B, V]."""
        rows, width = inputs.shape
        ends = torch.arange(rows, device=inputs.device) * width + lengths - 1  # [B]
        layout_of = partial(padded_layout_of, width=width)
        vectors = self.encoder.encode_ends(inputs.flatten(), ends, lengths, layout_of)
        return vectors, vectors @ self.encoder.item_table.T
