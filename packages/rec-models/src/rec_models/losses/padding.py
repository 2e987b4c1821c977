"""The paper's full CCE trains padded places too, towards item 0 (``paper_faithful=True``): upstream of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from rec_models.backbones import Encoder
from rec_models.settings import LossSettings


def trains_padding(settings: LossSettings) -> bool:
    """Whether `with_padding_targets` comes before the loss: P more tokens are then in its mean."""
    return settings.paper_faithful and settings.loss == "cce"


def with_padding_targets(encoder: Encoder, tokens: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Add the places that left padding to ``max_seq_len`` would have made, each with target 0.

    A padded place sees padding only, so one history of nothing but item 0 gives the vectors of all of them.

    Args:
        encoder: the encoder.
        tokens: [M, D] vectors of the real places.
        targets: [M] int64.
        lengths: [B] int64.

    Returns:
        [M + P, D] and [M + P], P the padded places of the batch.
    """
    full = encoder.settings.max_seq_len
    padding = torch.zeros(1, full, dtype=torch.int64, device=lengths.device)
    vectors = encoder(padding, torch.tensor([full], device=lengths.device))[0].to(tokens.dtype)  # [max_seq_len, D]
    places = torch.arange(full, device=lengths.device)
    padded = places.expand(lengths.numel(), full)[places < (full - lengths)[:, None]]  # [P], left of each history
    return torch.cat([tokens, vectors[padded]]), torch.cat([targets, targets.new_zeros(padded.numel())])
