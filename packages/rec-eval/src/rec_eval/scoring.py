"""Scores of a tile of users against a tile of items, and the checks that make their order meaningful."""

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_scoring(queries: Tensor, items: Tensor, bias: Tensor | None) -> bool:
    """Refuse operands whose scores could not be ranked.

    Args:
        queries: ``[U, D]`` float32, bfloat16 or float16.
        items: ``[V, D]``, dtype and device of ``queries``.
        bias: ``[V]`` or None. ``-inf`` takes an item out of every list.

    Returns:
        True if finite operands could still overflow to inf or NaN in float32, so that each tile of scores must be
        checked.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a value is NaN or infinite.
    """
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"queries must be [users, dim] and items [items, dim], got {list(queries.shape)} and {list(items.shape)}"
        )
    if items.shape[0] == 0 or items.shape[1] == 0:
        raise ValueError(f"items must hold at least one item of at least one dimension, got {list(items.shape)}")
    if queries.dtype not in _FLOATS or items.dtype != queries.dtype:
        raise ValueError(
            f"queries and items must share one of float32, bfloat16, float16, got {queries.dtype} and {items.dtype}"
        )
    if items.device != queries.device:
        raise ValueError(f"items are on {items.device}, queries on {queries.device}: they must be on one device")
    largest = [_largest("queries", queries), _largest("items", items)]
    shift = 0.0
    if bias is not None:
        if bias.shape != items.shape[:1] or bias.device != items.device or not bias.is_floating_point():
            raise ValueError(
                f"bias must be [{items.shape[0]}] floats on {items.device}, "
                f"got {list(bias.shape)} {bias.dtype} on {bias.device}"
            )
        if bool(torch.isnan(bias).any()) or bool(torch.isposinf(bias).any()):
            raise ValueError("bias holds NaN or +inf; allowed are finite values, and -inf to take an item out")
        shift = float(torch.where(torch.isneginf(bias), 0.0, bias).abs().max())
    bound = largest[0] * largest[1] * queries.shape[1] + shift
    return bound >= torch.finfo(torch.float32).max


def _largest(name: str, values: Tensor) -> float:
    """Largest absolute value of a matrix, NaN and infinities refused: one pass, no copy, one synchronisation."""
    if values.numel() == 0:
        return 0.0
    largest = float(torch.stack(values.detach().aminmax()).abs().max())  # NaN is carried along
    if not largest < float("inf"):
        raise ValueError(f"{name} holds NaN or infinite values: their scores have no order")
    return largest


def tile_scores(queries: Tensor, items: Tensor, bias: Tensor | None, check: bool) -> Tensor:
    """Scores ``q . w + b`` in float32, products of 16-bit inputs summed in float32.

    Args:
        queries: ``[u, D]``.
        items: ``[t, D]``.
        bias: ``[t]`` or None.
        check: look for NaN and overflow in the result.

    Returns:
        ``[u, t]`` float32.

    Raises:
        ValueError: ``check`` found a NaN or +inf.
    """
    if queries.dtype == torch.float32:
        scores = queries @ items.T
    elif queries.is_cuda:
        scores = torch.mm(queries, items.T, out_dtype=torch.float32)
    else:
        # A CPU product of 16-bit operands would round its result to 16 bits.
        scores = queries.float() @ items.float().T
    if bias is not None:
        scores += bias
    if check and bool((torch.isnan(scores) | torch.isposinf(scores)).any()):
        raise ValueError("scores overflow float32 (NaN or inf): scale queries or items down")
    return scores
