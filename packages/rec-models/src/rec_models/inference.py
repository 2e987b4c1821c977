"""Using a trained model: load it, encode histories, recommend items."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import CheckpointError
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.devices import autocast_dtype

History = Sequence[int] | Tensor  # item ids, oldest first; NumPy arrays work too
_SCORES = 1 << 26  # scores in memory at a time: 256 MiB


def load(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Load the encoder of a ``model.safetensors``, in eval mode, with its settings as ``encoder.settings``.

    A ``model.ckpt`` of version 0.1 is read as well. On a CPU the weights are memory-mapped (`ModelCheckpoint.read`).

    On a GPU `Encoder.encode_last` computes in the precision of training, on a CPU in float32. ``encoder.catalogue`` is
    the hash of the catalogue that `fit` was given, None in older files: compare it with that of the ids you rank.
    ``encoder.log`` is the hash of the log, in the same way.

    Raises:
        CheckpointError: the file is damaged or not a model.
        FileNotFoundError: there is no such file.
        ValueError: there is no such device.
    """
    checkpoint = ModelCheckpoint.read(Path(path), device)
    with torch.device("meta"):
        encoder = build_encoder(checkpoint.model, checkpoint.num_items)
    try:
        encoder.load_state_dict(checkpoint.weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: its weights are not those of its settings: {reason}") from error
    encoder.catalogue, encoder.log = checkpoint.catalogue, checkpoint.log
    encoder.autocast_dtype = autocast_dtype(checkpoint.training.precision, torch.device(device))
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(encoder: Encoder, histories: Sequence[History], batch_size: int = 1024) -> Tensor:
    """The vectors that rank the next item of each history.

    Args:
        encoder: in eval mode.
        histories: item ids from 0 to V - 1, oldest first, at least one per history; the last ``max_seq_len`` are used.
        batch_size: histories at a time.

    Returns:
        [len(histories), D] on the encoder's device, in the dtype of its weights.

    Raises:
        ValueError: a history that is empty or not a list of integer ids, an id outside the catalogue, or an encoder in
            train mode.
    """
    _check(encoder, histories)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size: found {batch_size!r}, allowed: a whole number from 1")
    device = encoder.item_table.device
    limit = encoder.settings.max_seq_len
    encoded = [torch.empty(0, encoder.settings.hidden, device=device)]
    for start in range(0, len(histories), batch_size):
        part = histories[start : start + batch_size]
        rows = [_history(history, start + offset, encoder.num_items)[-limit:] for offset, history in enumerate(part)]
        offsets = torch.tensor([0, *(row.numel() for row in rows)]).cumsum(0)  # [B + 1]
        encoded.append(encoder.encode_last(torch.cat(rows).to(device), offsets.to(device)))
    return torch.cat(encoded)


class Recommendations(NamedTuple):
    """The best items of each history, best first."""

    items: Tensor  # [U, k] int64 item ids; -1 where fewer than k items are left
    scores: Tensor  # [U, k] fp32; -inf where there is no item


@torch.no_grad()
def recommend(
    encoder: Encoder,
    histories: Sequence[History],
    k: int,
    *,
    filter_seen: bool = True,
    unknown: Literal["raise", "skip"] = "raise",
) -> Recommendations:
    """Rank the catalogue for each history.

    This holds all V scores of a few users at a time; for many users, use a ranking library that streams the catalogue.

    Args:
        encoder: in eval mode.
        histories: as for `encode`.
        k: items per history, from 1 to V.
        filter_seen: leave out all items of the history, also those before the last ``max_seq_len``.
        unknown: what to do with ids outside the catalogue. ``skip`` ignores them, with one warning that counts them; a
            history without known ids gets no items.

    Raises:
        ValueError: as `encode`, or k is out of range.
    """
    _check(encoder, histories)
    is_whole = isinstance(k, Integral) and not isinstance(k, bool)
    if not (is_whole and 1 <= k <= encoder.num_items):
        allowed = f"a whole number from 1 to {encoder.num_items}, the size of the catalogue"
        raise ValueError(f"k: found {k}, allowed: {allowed}")
    if unknown not in ("raise", "skip"):
        raise ValueError(f"unknown: found {unknown!r}, allowed: raise | skip")
    step = max(1, min(1024, _SCORES // encoder.num_items))
    items, scores = torch.full((len(histories), k), -1), torch.full((len(histories), k), -torch.inf)
    skipped: list[int] = []
    for start in range(0, len(histories), step):
        given = enumerate(histories[start : start + step], start)
        if unknown == "skip":
            part = [_known(history, number, encoder.num_items, skipped) for number, history in given]
        else:
            part = [_history(history, number, encoder.num_items) for number, history in given]
        rows = [row for row, history in enumerate(part) if history.numel()]
        ranked = encode(encoder, [part[row] for row in rows]) @ encoder.item_table.T  # [u, V]
        if filter_seen:
            for row, vector in zip(rows, ranked, strict=True):
                vector[part[row].to(vector.device)] = -torch.inf
        best = ranked.float().topk(k)
        items[start : start + step][rows] = best.indices.masked_fill(best.values == -torch.inf, -1).cpu()
        scores[start : start + step][rows] = best.values.cpu()
    if skipped:
        examples = ", ".join(str(item) for item in dict.fromkeys(skipped[:1000]))
        examples = examples if len(examples) <= 40 else f"{examples[:40]}..."
        warnings.warn(f"histories: {len(skipped)} unknown items are skipped: {examples}", stacklevel=3)
    return Recommendations(items, scores)


def _check(encoder: Encoder, histories: Sequence[History]) -> None:
    """Refuse an encoder in train mode, and anything but a list, array or tensor of histories."""
    if encoder.training:
        allowed = "eval mode (encoder.eval()), because dropout changes ranks"
        raise ValueError(f"encoder: found train mode, allowed: {allowed}")
    is_list = hasattr(histories, "__len__") and hasattr(histories, "__getitem__")
    if not is_list or isinstance(histories, (str, bytes, Mapping)):
        raise ValueError(f"histories: found {reprlib.repr(histories)}, allowed: a list of histories, each of item ids")


def _ids(history: History, number: int) -> Tensor:
    """The ids of a history as a tensor [L] int64, not checked against the catalogue."""
    try:
        row = torch.as_tensor(history)
    except (TypeError, ValueError, RuntimeError):
        row = torch.empty(0, 0)
    kind = row.dtype
    fractions = kind.is_floating_point or kind.is_complex or kind == torch.bool
    if row.dim() != 1 or (fractions and row.numel()):  # an empty list makes a tensor of floats
        found = f"{reprlib.repr(history)} at index {number}"
        raise ValueError(f"histories: found {found}, allowed: a list of whole item ids")
    return row.long()


def _known(history: History, number: int, num_items: int, skipped: list[int]) -> Tensor:
    """The ids of a history that are in the catalogue, [L] int64; the others are added to `skipped`."""
    ids = _ids(history, number)
    known = (ids >= 0) & (ids < num_items)
    skipped += ids[~known].tolist()
    return ids[known]


def _history(history: History, number: int, num_items: int) -> Tensor:
    """A checked history as a tensor [L] int64."""
    row = _ids(history, number)
    if row.numel() == 0:
        raise ValueError(f"histories: found an empty history at index {number}, allowed: one item or more")
    wrong = row[(row < 0) | (row >= num_items)]
    if wrong.numel():
        found = f"item {int(wrong[0])} in the history at index {number}"
        raise ValueError(f"histories: found {found}, allowed: 0 to {num_items - 1}")
    return row
