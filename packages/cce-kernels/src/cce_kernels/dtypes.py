"""The dtypes that products and sums are computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the operands of products: hidden's, or autocast's instead of fp32."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype == torch.float32:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Switch autocast off where it is on: entering the context costs as much as a small kernel."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def sum_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype of the reference's sums: float64 if any input is float64, else fp32."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32


def as_multiplied(weight: Tensor, hidden: Tensor) -> Tensor:
    """Rows of the item table as products see them: rounded to hidden's dtype, as the kernels read them.

    A narrower table is returned as it is, because widening it rounds nothing. Of two 16-bit dtypes neither is narrower.
    """
    return weight if weight.dtype.itemsize < hidden.dtype.itemsize else weight.to(hidden.dtype)
