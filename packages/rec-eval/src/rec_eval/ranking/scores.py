"""Scores of a tile of users against a tile of items, and the checks that guarantee that scores can be ordered."""

import copy

import torch
from torch import Tensor

from rec_eval.ranking.int8_impl import Int8Table, suits

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Catalogue:
    """Item vectors that have been checked once, for ranking many batches of users.

    If the values change, create a new catalogue.

    Args:
        items: ``[V, D]`` float32, bfloat16 or float16, on CPU or CUDA.
        bias: ``[V]`` floats on the same device, or None. ``-inf`` excludes an item from every list.
        int8: also keep an int8 copy where `top_k` ranks a few users faster with one (`rec_eval.ranking.int8_impl`).
            The lists are the same. The copy takes ``D + 12`` bytes per item, and two passes over the items.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a value is NaN or infinite.
    """

    def __init__(self, items: Tensor, bias: Tensor | None = None, *, int8: bool = False) -> None:
        if items.ndim != 2:
            raise ValueError(f"items must be [items, dim], got {list(items.shape)}")
        if items.numel() == 0:
            raise ValueError(f"items must hold at least one item of at least one dimension, got {list(items.shape)}")
        if items.dtype not in _FLOATS:
            raise ValueError(f"queries and items must share one of float32, bfloat16, float16, got {items.dtype} items")
        self.items, self.bias = items, bias
        self.largest = _largest("items", items)
        self.shift = 0.0 if bias is None else _shift(bias, items)
        self.int8 = Int8Table(items) if int8 and suits(items) else None

    def among(self, allowed: Tensor) -> "Catalogue":
        """The same catalogue, of which lists hold only the items marked in ``[V]`` bool; checks nothing again."""
        chosen = copy.copy(self)
        bias = torch.zeros(len(self.items), device=self.items.device) if self.bias is None else self.bias
        chosen.bias = bias.masked_fill(~allowed.to(bias.device), float("-inf"))
        return chosen


def as_catalogue(items: Tensor | Catalogue, bias: Tensor | None) -> Catalogue:
    """Check item vectors, unless they are a catalogue already.

    Raises:
        ValueError: as for `Catalogue`, or a bias is given together with a catalogue, which has its own.
    """
    if not isinstance(items, Catalogue):
        return Catalogue(items, bias)
    if bias is not None:
        raise ValueError("bias must be None with a Catalogue, which has its own")
    return items


def check_scoring(queries: Tensor, catalogue: Catalogue) -> bool:
    """Refuse queries ``[U, D]`` whose scores cannot be ordered.

    Returns:
        Whether scores of finite vectors could overflow float32, so that each tile of scores must be checked.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a value is NaN or infinite.
    """
    check_queries(queries, catalogue)
    return may_overflow(_largest("queries", queries), queries, catalogue)


def check_queries(queries: Tensor, catalogue: Catalogue) -> None:
    """Refuse queries ``[U, D]`` whose shape, dtype or device does not fit: a ValueError."""
    items = catalogue.items
    if queries.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"queries must be [users, dim] and items [items, dim], got {list(queries.shape)} and {list(items.shape)}"
        )
    if items.dtype != queries.dtype:
        raise ValueError(
            f"queries and items must share one of float32, bfloat16, float16, got {queries.dtype} and {items.dtype}"
        )
    if items.device != queries.device:
        raise ValueError(f"items are on {items.device}, queries on {queries.device}: they must be on one device")


def may_overflow(largest: float, queries: Tensor, catalogue: Catalogue) -> bool:
    """Whether scores of finite vectors could overflow float32; ``largest`` is the largest absolute value of queries."""
    return largest * catalogue.largest * queries.shape[1] + catalogue.shift >= torch.finfo(torch.float32).max


def _shift(bias: Tensor, items: Tensor) -> float:
    """Check a bias, and return its largest finite absolute value."""
    if bias.shape != items.shape[:1] or bias.device != items.device or not bias.is_floating_point():
        raise ValueError(
            f"bias must be [{items.shape[0]}] floats on {items.device}, "
            f"got {list(bias.shape)} {bias.dtype} on {bias.device}"
        )
    if bool(torch.isnan(bias).any()) or bool(torch.isposinf(bias).any()):
        raise ValueError("bias holds NaN or +inf; allowed: finite values, and -inf to exclude an item")
    return float(torch.where(torch.isneginf(bias), 0.0, bias).abs().max())


def _largest(name: str, values: Tensor) -> float:
    """Refuse NaN and infinities, and return the largest absolute value: one pass with one synchronization."""
    if values.numel() == 0:
        return 0.0
    return finite(name, float(torch.stack(values.detach().aminmax()).abs().max()))  # NaN propagates


def finite(name: str, largest: float) -> float:
    """Refuse values whose largest absolute value is NaN or infinite, and return it."""
    if not largest < float("inf"):
        raise ValueError(f"{name} holds NaN or infinite values; allowed: finite ones")
    return largest


def tile_scores(queries: Tensor, items: Tensor, bias: Tensor | None, check: bool) -> Tensor:
    """Compute scores ``q . w + b`` in float32; products of 16-bit inputs are summed in float32.

    Queries are ``[u, D]``, items ``[t, D]`` and the bias ``[t]``; the scores are ``[u, t]``.

    Raises:
        ValueError: ``check`` found a NaN or +inf.
    """
    if queries.dtype == torch.float32:
        scores = queries @ items.T
    elif queries.is_cuda:
        scores = torch.mm(queries, items.T, out_dtype=torch.float32)
    else:
        # On a CPU, the product of 16-bit operands would be rounded to 16 bits.
        scores = queries.float() @ items.float().T
    if bias is not None:
        scores += bias
    if check and bool((torch.isnan(scores) | torch.isposinf(scores)).any()):
        raise ValueError("scores overflow float32 (NaN or inf): scale queries or items down")
    return scores
