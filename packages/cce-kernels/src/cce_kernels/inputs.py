"""What the public functions do with the tensors of a call once they are checked."""

import torch
from torch import Tensor

from cce_kernels import validation
from cce_kernels.hardware import is_ampere_or_newer
from cce_kernels.shard import Shard


def num_items_of(weight: Tensor, shard: Shard | None) -> int:
    """V, of which a sharded weight has a part."""
    return weight.shape[0] if shard is None else shard.num_items


def uses_triton(impl: str, hidden: Tensor, weight: Tensor, bias: Tensor | None, widest: int) -> bool:
    """Whether Triton computes this call; refuses what it cannot. `widest` is the largest D that it takes."""
    use = impl == "triton" or (impl == "auto" and is_ampere_or_newer(hidden.device))
    if use:
        validation.check_triton(hidden, weight, bias, widest)
    return use


def prepared(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype, use_triton: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Hidden [M, D] in the dtype of products, weight, bias and targets [M].

    All are contiguous, except that the eager reference multiplies a strided table as it is, without a copy.
    """
    # A view of the same shape would be one more node of the autograd graph.
    h = (hidden if hidden.dim() == 2 else hidden.reshape(-1, hidden.shape[-1])).to(dtype).contiguous()
    if use_triton or torch.compiler.is_compiling():
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    return h, weight, bias, (targets if targets.dim() == 1 else targets.reshape(-1)).contiguous()
