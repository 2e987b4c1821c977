"""Attention within packed histories: torch's variable-length kernel where there is one, padded otherwise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rec_models.backbones.layout import Layout

if torch.cuda.is_available():  # its import brings torch's compiler, seconds that a start on a CPU need not take
    from torch.nn.attention.varlen import varlen_attn

_HALF = (torch.bfloat16, torch.float16)


def attend(qkv: Tensor, layout: Layout, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """Scaled dot product attention; no place looks outside its own history.

    Args:
        qkv: [T, 3, H, d] queries, keys and values of packed histories.
        layout: of the T places.
        causal: no place looks at a later one.
        dropout: share of attention weights set to zero, the others scaled up; above 0 only where histories are padded.

    Returns:
        [T, H * d].
    """
    if qkv.is_cuda and qkv.dtype in _HALF and dropout == 0:
        return _attend_packed(qkv, layout, causal=causal)
    return _attend_padded(qkv, layout, causal=causal, dropout=dropout)


def _attend_packed(qkv: Tensor, layout: Layout, *, causal: bool) -> Tensor:
    """Flash attention on the packed places: cost grows with the real ones alone."""
    q, k, v = qkv.unbind(1)  # [T, H, d]
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q, k, v, layout.starts, layout.starts, layout.width, layout.width, window_size=window)
    assert isinstance(out, Tensor)
    return out.flatten(1)


def _attend_padded(qkv: Tensor, layout: Layout, *, causal: bool, dropout: float = 0.0) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in layout.pad(qkv).unbind(2))  # [B, H, L, d]
    # Under right padding a causal place never sees a padded one, so only looking both ways needs the mask.
    mask = None if causal else layout.key_mask()
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return layout.pack(out.transpose(1, 2)).flatten(1)
