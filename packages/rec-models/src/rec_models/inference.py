"""Using a trained model: load it, encode histories, recommend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rec_models.backbones import Encoder, build_encoder
from rec_models.checkpoint import ModelCheckpoint


def load(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """The encoder in a ``model.ckpt``, in eval mode, its settings attached as ``encoder.settings``.

    Raises:
        CheckpointError: the file is damaged or something else.
        FileNotFoundError: there is no such file.
    """
    checkpoint = ModelCheckpoint.read(Path(path), device)
    with torch.device("meta"):
        encoder = build_encoder(checkpoint.model, checkpoint.num_items)
    encoder.load_state_dict(checkpoint.weights, assign=True)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(encoder: Encoder, histories: Sequence[Sequence[int]], batch_size: int = 1024) -> Tensor:
    """The vectors that rank the next item of each history.

    Args:
        encoder: in eval mode.
        histories: item ids from 0 to V - 1, oldest first, at least one each; the last ``max_seq_len`` are read.
        batch_size: histories at a time.

    Returns:
        [len(histories), D] on the encoder's device.

    Raises:
        ValueError: an empty history, or an id outside the catalogue.
    """
    device = encoder.item_table.device
    limit = encoder.settings.max_seq_len
    encoded = [torch.empty(0, encoder.settings.hidden, device=device)]
    for start in range(0, len(histories), batch_size):
        rows = [
            torch.as_tensor(history, dtype=torch.int64)[-limit:] for history in histories[start : start + batch_size]
        ]
        for number, row in enumerate(rows, start):
            _check_history(row, number, encoder.num_items)
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [B, L]
        lengths = torch.tensor([row.numel() for row in rows])  # [B]
        encoded.append(encoder.encode_last(inputs.to(device), lengths.to(device)))
    return torch.cat(encoded)


def _check_history(row: Tensor, number: int, num_items: int) -> None:
    if row.numel() == 0:
        raise ValueError(f"histories: found an empty history at index {number}, allowed: one item or more")
    wrong = row[(row < 0) | (row >= num_items)]
    if wrong.numel():
        raise ValueError(
            f"histories: found item {int(wrong[0])} in the history at index {number}, allowed: 0 to {num_items - 1}"
        )
