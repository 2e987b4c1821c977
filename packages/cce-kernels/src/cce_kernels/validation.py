"""Every check that the host can make, once. All errors are ValueErrors that name the argument."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from cce_kernels.checks import check_choice, check_integer, is_number
from cce_kernels.sampled.objectives import BCE, GBCE, Objective, Softmax
from cce_kernels.sampled.samplers import InBatch, Popularity, Sampler, Uniform

MAX_ITEMS = 2**31 - 1
MAX_COUNTER = 2**32
MAX_TRITON_DIM = 512
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"  # Triton itself reads it when kernels are imported
_NO_NUMPY = INTERPRETER and find_spec("numpy") is None
IMPLS = ("auto", "triton", "reference")
REDUCTIONS = ("none", "sum", "mean")
SHARINGS = ("none", "tile", "batch")
DEFAULT_TILE_TOKENS = 64
DEFAULT_IGNORE_INDEX = -100
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_shared_options(reduction: str, impl: str, ignore_index: int) -> None:
    """The options of one value that both losses share."""
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
    check_shared_options(reduction, impl, ignore_index)
    for name, given in (("hidden", hidden), ("weight", weight), ("targets", targets), ("bias", bias)):
        if not isinstance(given, Tensor) and (given is not None or name != "bias"):
            raise ValueError(f"{name}: found {type(given).__name__}, allowed: a tensor")
        if given is not None and given.layout != torch.strided:
            raise ValueError(f"{name}: found {given.layout}, allowed: a dense tensor")
    if hidden.dim() < 1:
        raise ValueError("hidden: found a scalar, allowed: the shape [..., D]")
    if weight.dim() != 2:
        raise ValueError(f"weight: found the shape {list(weight.shape)}, allowed: [V, D]")
    items, width = weight.shape
    if not 1 <= items <= MAX_ITEMS:
        raise ValueError(f"weight: found {items} rows, allowed: 1 to {MAX_ITEMS}")
    if hidden.shape[-1] != width or width < 1:
        raise ValueError(
            f"hidden and weight: found [..., {hidden.shape[-1]}] and [V, {width}], allowed: the same D, 1 or more"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"targets: found the shape {list(targets.shape)}, allowed: hidden's without D, {list(hidden.shape[:-1])}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets: found {targets.dtype}, allowed: int64")
    if bias is not None and bias.shape != (items,):
        raise ValueError(f"bias: found the shape {list(bias.shape)}, allowed: [V] = [{items}]")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype not in _FLOATS:
            raise ValueError(f"{name}: found {tensor.dtype}, allowed: float32, bfloat16, float16, float64")
    for name, tensor in (("weight", weight), ("targets", targets), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name}: found on {tensor.device}, allowed: hidden's device {hidden.device}")
    if hidden.is_meta:
        raise ValueError("hidden: found on meta, allowed: a device that holds numbers")


def check_triton(hidden: Tensor, weight: Tensor, bias: Tensor | None, widest: int) -> None:
    """What the Triton kernels cannot do; `widest` is the largest D."""
    if hidden.device.type != "cuda" and not INTERPRETER:
        raise ValueError(
            f"impl: found 'triton' with tensors on {hidden.device}, allowed: on CUDA (or TRITON_INTERPRET=1)"
        )
    if _NO_NUMPY:
        raise ValueError(
            f"impl: found 'triton' with tensors on {hidden.device}, which Triton's interpreter multiplies by numpy; "
            "allowed: with numpy installed, or impl='reference'"
        )
    if hidden.shape[-1] > widest:
        raise ValueError(
            f"hidden: found {hidden.shape[-1]} columns of {hidden.dtype}, allowed with impl='triton': up to {widest}"
        )
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype == torch.float64:
            raise ValueError(f"{name}: found float64, allowed with impl='reference' only")


def check_full(softcap: float | None, filter_eps: float | None) -> None:
    """Numbers of the full loss."""
    if softcap is not None and not (is_number(softcap) and softcap > 0):
        raise ValueError(f"softcap: found {softcap!r}, allowed: a positive finite number, or None")
    if filter_eps is not None and not (is_number(filter_eps) and 0 < filter_eps < 1):
        raise ValueError(f"filter_eps: found {filter_eps!r}, allowed: a number in (0, 1), or None")


def check_counter(name: str, value: Tensor | int, device: torch.device | None, limit: int) -> None:
    """A seed or step: an int in range, or an int64 tensor of one element on the device."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.dtype != torch.int64:
            raise ValueError(
                f"{name}: found a tensor {list(value.shape)} of {value.dtype}, "
                "allowed: an integer or an int64 tensor of one element"
            )
        if device is not None and value.device != device:
            raise ValueError(f"{name}: found on {value.device}, allowed: hidden's device {device}")
    else:
        check_integer(name, value, 0, limit)


def check_sharing(num_negatives: int, sharing: str, tile_tokens: int) -> None:
    """How many negatives there are, and for whom."""
    check_choice("sharing", sharing, SHARINGS)
    check_integer("num_negatives", num_negatives, 1, MAX_ITEMS)
    check_integer("tile_tokens", tile_tokens, 1, 1025)
    if sharing != "tile" and tile_tokens != DEFAULT_TILE_TOKENS:
        raise ValueError(
            f"tile_tokens: found {tile_tokens} with sharing={sharing!r}, allowed: with sharing='tile' only"
        )


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
        raise ValueError(
            f"row_offset: found {row_offset!r} with {num_tokens} tokens, allowed: row numbers below {MAX_COUNTER}"
        )
    check_sampler(sampler)
    if isinstance(sampler, Popularity) and sampler.counts.numel() != num_items:
        raise ValueError(
            f"sampler: found Popularity.counts of {sampler.counts.numel()} items, allowed: V = {num_items}"
        )


def check_sampler(sampler: Sampler) -> None:
    """What a sampler is, without the table it draws from."""
    if not isinstance(sampler, Uniform | Popularity | InBatch):
        raise ValueError(f"sampler: found {sampler!r}, allowed: Uniform(), Popularity(counts), InBatch()")
    if not isinstance(sampler, Uniform) and not (sampler.logq is None or isinstance(sampler.logq, bool)):
        raise ValueError(f"sampler: found logq={sampler.logq!r}, allowed: True, False, None")


def check_objective(objective: Objective, sampler: Sampler) -> None:
    """An objective, and that it does not contradict the sampler (one that `check_sampler` has passed)."""
    if not isinstance(objective, Softmax | BCE | GBCE):
        raise ValueError(f"objective: found {objective!r}, allowed: Softmax(), BCE(), GBCE()")
    if not isinstance(objective, Softmax) and not isinstance(sampler, Uniform) and sampler.logq:
        raise ValueError(
            f"sampler: found logq=True with {type(objective).__name__}, "
            "allowed: None or False, because it corrects the softmax only"
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
    ignore_index: int,
) -> None:
    """Arguments of `draw_negatives`."""
    check_integer("num_tokens", num_tokens, 0, MAX_COUNTER + 1)
    check_integer("num_items", num_items, 1, MAX_ITEMS + 1)
    check_integer("ignore_index", ignore_index, -(2**63), 2**63)
    check_sampling(num_items, num_negatives, row_offset, num_tokens, sampler, sharing, tile_tokens)
    check_counter("seed", seed, None, 2**63)
    check_counter("step", step, None, MAX_COUNTER)
    if not isinstance(sampler, InBatch):
        read, name = "allowed: with InBatch only, which draws among targets", type(sampler).__name__
        if targets is not None:
            raise ValueError(f"targets: found with {name}, {read}")
        if ignore_index != DEFAULT_IGNORE_INDEX:
            raise ValueError(f"ignore_index: found {ignore_index} with {name}, {read}")
    elif not isinstance(targets, Tensor):
        raise ValueError(
            f"targets: found {type(targets).__name__}, allowed: a tensor, because InBatch draws among them"
        )
    elif targets.shape != (num_tokens,):
        raise ValueError(f"targets: found the shape {list(targets.shape)}, allowed: [num_tokens] = [{num_tokens}]")
    elif targets.dtype != torch.int64:
        raise ValueError(f"targets: found {targets.dtype}, allowed: int64")
    places = {
        name: x.device for name, x in (("seed", seed), ("step", step), ("targets", targets)) if isinstance(x, Tensor)
    }
    if len(set(places.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in places.items())
        raise ValueError(f"{' and '.join(places)}: found {found}, allowed: one device")


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
        raise ValueError(
            f"targets: found an id out of range, allowed: [0, {weight.shape[0]}) and ignore_index {ignore_index}"
        )
    for (name, _), flag in zip([item for item in named if item[1].numel()], flags[1:], strict=True):
        if flag:
            raise ValueError(f"{name}: found NaN or infinity, allowed: finite numbers")
