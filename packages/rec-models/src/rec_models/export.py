"""Export a trained encoder as a program that runs without this package: with torch alone, or with ONNX Runtime."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rec_models.encoders import Encoder
from rec_models.encoders.embedding import lookup
from rec_models.encoders.packing import padded_layout_of

Format = Literal["torch", "onnx"]


def export(encoder: Encoder, path: str | Path, format: Format = "torch") -> None:  # noqa: A002
    """Write ``encode_last`` with its weights as a program: of `torch.export` (usually ``.pt2``), or an ONNX model.

    Inputs:
        items [B, L] int64: dense item ids, oldest first. Histories are not packed: each is at the left of its row,
        and the places behind it hold any valid id, such as 0. B is at least 1, L from 1 to ``max_seq_len``; of a longer
        history give the last ``max_seq_len`` items.
        lengths [B] int64: the items of each history, from 1 to L.

    Outputs, in the dtype of the weights, whatever precision training used:
        vectors [B, D], and scores [B, V] of the whole catalogue: ``vectors @ item_table.T``. Items of the history are
        not left out.

    `torch.export.load(path).module()` takes inputs by position; in an ONNX model inputs and outputs have these names.
    ``encoder.catalogue``, the hash of the items' ids, if that is known, is the extra file ``catalogue`` of a program or
    the entry ``catalogue`` of an ONNX model's metadata. Weights of more than 2 GB are beside an ONNX model, in
    ``<path>.data``.

    The file has its name only when it is complete, and its folder is created. The encoder is not changed.

    Raises:
        ValueError: the path is a folder or cannot be written to, or `format` is ``onnx`` and onnxscript is not
            installed; this is checked before the export starts.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"path: found {target}, a folder, allowed: a file")
    if format == "onnx" and find_spec("onnxscript") is None:
        raise ValueError("format: found onnx without onnxscript, allowed: after pip install 'rec-models[onnx]'")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise ValueError(f"path: found {target} ({error.strerror}), allowed: a file that can be written") from None
    with folder as name:
        part = Path(name) / target.name
        program = _program(encoder)
        if format == "onnx":
            _save_onnx(program, part, encoder.catalogue)
        else:
            torch.export.save(program, part, extra_files={"catalogue": encoder.catalogue or ""})
        for file in sorted(part.parent.iterdir(), reverse=True):  # the weights of a large model before the model
            file.replace(target.parent / file.name)


def _program(encoder: Encoder) -> Any:
    """The exported program; sizes of 0 and 1 would be taken as fixed, so the example has larger ones."""
    most = encoder.settings.max_seq_len  # at least 2
    example = (torch.zeros(2, most, dtype=torch.int64), torch.tensor([1, most]))
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1, max=most)
    with torch.no_grad():
        ranker = _Ranker(encoder).cpu().eval()
        return torch.export.export(ranker, example, dynamic_shapes=({0: batch, 1: length}, {0: batch}))


def _save_onnx(program: Any, path: Path, catalogue: str | None) -> None:
    with _quiet_exporter():
        found = torch.onnx.export(
            program, input_names=["items", "lengths"], output_names=["vectors", "scores"], dynamo=True, verbose=False
        )
    assert found is not None
    if catalogue is not None:
        found.model.metadata_props["catalogue"] = catalogue
    found.save(path)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's lines about torchvision, which no network here uses, and about its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(before)


class _Ranker(nn.Module):
    """From padded histories to vectors and scores; its shapes do not depend on values."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.lookup = lookup
        self.encoder.autocast_dtype = None

    def forward(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Args: items [B, L] int64, lengths [B] int64. Returns [B, D] and [B, V]."""
        rows, width = items.shape
        ends = torch.arange(rows, device=items.device) * width + lengths - 1  # [B]
        columns = width
        if not self.encoder.causal:  # a mask follows each history; a full one drops its oldest item
            columns = torch.sym_min(width + 1, self.encoder.settings.max_seq_len)  # type: ignore[no-untyped-call]
        vectors = self.encoder.encode_ends(items.flatten(), ends, lengths, partial(padded_layout_of, width=columns))
        return vectors, vectors @ self.encoder.item_table.T
