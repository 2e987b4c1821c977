"""Every check that the host can make, once. All errors are ValueErrors that name the argument."""

import math
import os

import torch
from torch import Tensor

from cce_kernels.objectives import BCE, GBCE, Objective, Softmax
from cce_kernels.samplers import InBatch, Popularity, Sampler, Uniform

MAX_ITEMS = 2**31 - 1
MAX_COUNTER = 2**32
MAX_TRITON_DIM = 512
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"  # Triton itself reads it when kernels are imported
IMPLS = ("auto", "triton", "reference")
REDUCTIONS = ("none", "sum", "mean")
SHARINGS = ("none", "tile", "batch")
DEFAULT_TILE_TOKENS = 64
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_integer(name: str, value: object, low: int, end: int) -> None:
    """Refuse what is no integer in [low, end). A symbolic one is: torch.compile traces sizes that change."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not low <= value < end:
        raise ValueError(f"{name} must lie in [{low}, {end}), got {value!r}")


def check_reduction(reduction: str, impl: str, ignore_index: int) -> None:
    """The options that both losses share."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("impl", impl, IMPLS)
    check_integer("ignore_index", ignore_index, -(2**63), 2**63)


def check_common(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    reduction: str,
    impl: str,
    ignore_index: int,
) -> None:
    """Shapes, dtypes and devices that both losses demand."""
    check_reduction(reduction, impl, ignore_index)
    for name, given in (("hidden", hidden), ("weight", weight), ("targets", targets), ("bias", bias)):
        if not isinstance(given, Tensor) and (given is not None or name != "bias"):
            raise ValueError(f"{name} must be a tensor, got {type(given).__name__}")
    if hidden.dim() < 1:
        raise ValueError("hidden must have the shape [..., D], got a scalar")
    if weight.dim() != 2:
        raise ValueError(f"weight must have the shape [V, D], got {list(weight.shape)}")
    items, width = weight.shape
    if not 1 <= items <= MAX_ITEMS:
        raise ValueError(f"weight must have between 1 and {MAX_ITEMS} rows, got {items}")
    if hidden.shape[-1] != width or width < 1:
        raise ValueError(
            f"hidden and weight must share D >= 1, got hidden [..., {hidden.shape[-1]}], weight [V, {width}]"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"targets must have hidden's leading shape {list(hidden.shape[:-1])}, got {list(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64, got {targets.dtype}")
    if bias is not None and bias.shape != (items,):
        raise ValueError(f"bias must have the shape [V] = [{items}], got {list(bias.shape)}")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} must be float32, bfloat16, float16 or float64, got {tensor.dtype}")
    for name, tensor in (("weight", weight), ("targets", targets), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} must be on hidden's device {hidden.device}, got {tensor.device}")


def check_triton(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """What the Triton kernels cannot do."""
    if hidden.device.type != "cuda" and not INTERPRETER:
        raise ValueError(f"impl='triton' needs CUDA tensors (or TRITON_INTERPRET=1), got {hidden.device}")
    if hidden.shape[-1] > MAX_TRITON_DIM:
        raise ValueError(f"hidden has {hidden.shape[-1]} columns; impl='triton' takes up to {MAX_TRITON_DIM}")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype == torch.float64:
            raise ValueError(f"{name} is float64, which needs impl='reference'")


def check_full(softcap: float | None, filter_eps: float | None) -> None:
    """Numbers of the full loss."""
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap must be positive and finite, or None, got {softcap!r}")
    if filter_eps is not None and not 0 < filter_eps < 1:
        raise ValueError(f"filter_eps must lie in (0, 1) or be None, got {filter_eps!r}")


def check_counter(name: str, value: Tensor | int, device: torch.device | None, limit: int) -> None:
    """A seed or step: an int in range, or an int64 tensor of one element on the device."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.dtype != torch.int64:
            raise ValueError(
                f"{name} must be an int or an int64 tensor of one element, got {value.dtype} {list(value.shape)}"
            )
        if device is not None and value.device != device:
            raise ValueError(f"{name} must be on hidden's device {device}, got {value.device}")
    else:
        check_integer(name, value, 0, limit)


def check_sharing(num_negatives: int, sharing: str, tile_tokens: int) -> None:
    """How many negatives there are, and for whom."""
    check_choice("sharing", sharing, SHARINGS)
    check_integer("num_negatives", num_negatives, 1, MAX_ITEMS)
    check_integer("tile_tokens", tile_tokens, 1, 1025)
    if sharing != "tile" and tile_tokens != DEFAULT_TILE_TOKENS:
        raise ValueError(f"tile_tokens is read with sharing='tile' only, got {tile_tokens} with sharing={sharing!r}")


def check_sampling(
    num_items: int,
    num_negatives: int,
    row_offset: int,
    num_tokens: int,
    sampler: Sampler,
    sharing: str,
    tile_tokens: int,
) -> None:
    """What drawing needs, whatever the objective."""
    check_sharing(num_negatives, sharing, tile_tokens)
    check_integer("row_offset", row_offset, 0, MAX_COUNTER)
    if row_offset + num_tokens > MAX_COUNTER:
        raise ValueError(f"row_offset must leave row numbers below {MAX_COUNTER}, got {row_offset!r}")
    if not isinstance(sampler, Uniform | Popularity | InBatch):
        raise ValueError(f"sampler must be Uniform, Popularity or InBatch, got {sampler!r}")
    if not isinstance(sampler, Uniform) and sampler.logq not in (None, True, False):
        raise ValueError(f"sampler: logq must be True, False or None, got {sampler.logq!r}")
    if isinstance(sampler, Popularity) and sampler.counts.numel() != num_items:
        raise ValueError(f"sampler: Popularity.counts must have V = {num_items} entries, got {sampler.counts.numel()}")


def check_objective(objective: Objective, sampler: Sampler) -> None:
    """Objectives and samplers that contradict each other."""
    if not isinstance(objective, Softmax | BCE | GBCE):
        raise ValueError(f"objective must be Softmax, BCE or GBCE, got {objective!r}")
    if not isinstance(objective, Softmax) and not isinstance(sampler, Uniform) and sampler.logq:
        raise ValueError(
            f"sampler: logq=True corrects the softmax only, got it with {type(objective).__name__}; leave it None"
        )


def check_draw(
    num_tokens: int,
    num_items: int,
    num_negatives: int,
    seed: Tensor | int,
    step: Tensor | int,
    row_offset: int,
    sampler: Sampler,
    sharing: str,
    tile_tokens: int,
    targets: Tensor | None,
) -> None:
    """Arguments of `draw_negatives`."""
    check_integer("num_tokens", num_tokens, 0, MAX_COUNTER + 1)
    check_integer("num_items", num_items, 1, MAX_ITEMS + 1)
    check_sampling(num_items, num_negatives, row_offset, num_tokens, sampler, sharing, tile_tokens)
    check_counter("seed", seed, None, 2**63)
    check_counter("step", step, None, MAX_COUNTER)
    if isinstance(sampler, InBatch) and targets is None:
        raise ValueError("targets is needed by InBatch: it draws among them")
    if targets is not None and targets.shape != (num_tokens,):
        raise ValueError(f"targets must have the shape [num_tokens] = [{num_tokens}], got {list(targets.shape)}")
    if targets is not None and targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64, got {targets.dtype}")


def check_values(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int) -> None:
    """What only the device knows: one synchronisation.

    Raises:
        ValueError: a target out of range, or a NaN or infinity in hidden, weight or bias.
    """
    bad_target = ((targets != ignore_index) & ((targets < 0) | (targets >= weight.shape[0]))).any()
    named = [("hidden", hidden), ("weight", weight)] + ([] if bias is None else [("bias", bias)])
    # aminmax carries NaN through and needs no [V, D] of booleans.
    finite = [torch.stack(torch.aminmax(x.detach())).isfinite().all() for _, x in named if x.numel()]
    flags = torch.stack([bad_target, *(~flag for flag in finite)]).tolist()
    if flags[0]:
        raise ValueError(f"targets must lie in [0, {weight.shape[0]}) or equal ignore_index {ignore_index}")
    for (name, _), flag in zip([item for item in named if item[1].numel()], flags[1:], strict=True):
        if flag:
            raise ValueError(f"{name} must be finite, got NaN or infinity")
