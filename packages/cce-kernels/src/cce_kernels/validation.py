"""What both losses require of their tensors and options. All errors are ValueErrors that name the argument."""

import os
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from cce_kernels.checks import check_choice, check_integer, is_number
from cce_kernels.hardware import is_ampere_or_newer, is_interpreted
from cce_kernels.shard import Shard

MAX_ITEMS = 2**31 - 1
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"  # Triton itself reads it when kernels are imported
_NO_NUMPY = INTERPRETER and find_spec("numpy") is None
Reduction = Literal["none", "sum", "mean"]
Impl = Literal["auto", "triton", "reference"]
DEFAULT_IGNORE_INDEX = -100
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_common_options(reduction: str, impl: str, ignore_index: int) -> None:
    """The options of both losses that are no tensors."""
    check_choice("reduction", reduction, get_args(Reduction))
    check_choice("impl", impl, get_args(Impl))
    check_integer("ignore_index", ignore_index, -(2**63), 2**63)


def check_common(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, reduction: str, impl: str, ignore_index: int,
    shard: Shard | None = None,
) -> None:  # fmt: skip
    """Shapes, dtypes and devices that both losses demand."""
    check_common_options(reduction, impl, ignore_index)
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
    if shard is not None:
        check_shard(shard, items)
    elif not 1 <= items <= MAX_ITEMS:
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


def check_unsharded(
    *, label_smoothing: float = 0.0, sets: Tensor | None = None, sparse_grad: bool = False, return_lse: bool = False,
    return_predicted: bool = False,
) -> None:  # fmt: skip
    """Refuse the options of either loss that a sharded table excludes."""
    if label_smoothing:
        raise ValueError(f"label_smoothing: found {label_smoothing!r} with shard, allowed: 0")
    if sets is not None:
        raise ValueError(f"targets: found {sets.shape[-1]} per token with shard, allowed: one")
    if sparse_grad:
        raise ValueError("sparse_grad: found True with shard, allowed: False, dense gradients of the own rows")
    if return_lse:
        raise ValueError("return_lse: found True with shard, allowed: False with sampled negatives")
    if return_predicted:
        raise ValueError("return_predicted: found True with shard, allowed: False")


def check_shard(shard: Shard, rows: int) -> None:
    """What a shard is, and that the table has its rows."""
    if not isinstance(shard, Shard):
        raise ValueError(f"shard: found {type(shard).__name__}, allowed: a Shard or None")
    if rows != shard.rows.number:
        raise ValueError(
            f"weight: found {rows} rows, allowed: the {shard.rows.number} rows of this process, of {shard.num_items}"
        )


def check_triton(hidden: Tensor, weight: Tensor, bias: Tensor | None, widest: int) -> None:
    """What the Triton kernels cannot do; `widest` is the largest D."""
    if is_interpreted(hidden.device) and not INTERPRETER:
        raise ValueError(
            f"impl: found 'triton' with tensors on {hidden.device}, allowed: on CUDA (or TRITON_INTERPRET=1)"
        )
    if hidden.device.type == "cuda" and not is_ampere_or_newer(hidden.device):
        name = torch.cuda.get_device_properties(hidden.device).name
        raise ValueError(
            f"impl: found 'triton' on {name}, allowed: on compute capability 8.0 or above, or impl='reference'"
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


def check_full(softcap: float | None, filter_eps: float | None, temperature: float, label_smoothing: float) -> None:
    """The numbers among the options of the full loss."""
    if softcap is not None and not (is_number(softcap) and softcap > 0):
        raise ValueError(f"softcap: found {softcap!r}, allowed: a positive finite number, or None")
    if filter_eps is not None and not (is_number(filter_eps) and 0 < filter_eps < 1):
        raise ValueError(f"filter_eps: found {filter_eps!r}, allowed: a number in (0, 1), or None")
    if not (is_number(temperature) and temperature > 0):
        raise ValueError(f"temperature: found {temperature!r}, allowed: a positive finite number")
    if not (is_number(label_smoothing) and 0 <= label_smoothing < 1):
        raise ValueError(f"label_smoothing: found {label_smoothing!r}, allowed: a number in [0, 1)")
    if label_smoothing and softcap is not None:
        raise ValueError(f"label_smoothing: found {label_smoothing!r}, allowed: 0 with softcap {softcap!r}")


def are_sets(hidden: Tensor, targets: Tensor) -> bool:
    """Whether `targets` are [..., K]: those of hidden [..., D], K for each token."""
    both = isinstance(hidden, Tensor) and isinstance(targets, Tensor) and targets.dtype == torch.int64
    return both and targets.dim() == hidden.dim() and targets.shape[:-1] == hidden.shape[:-1] and targets.shape[-1] > 0


def check_sets(softcap: float | None, item_weights: Tensor | None) -> None:
    """What several targets per token exclude."""
    if softcap is not None:
        raise ValueError(f"softcap: found {softcap!r}, allowed: None with several targets per token")
    if item_weights is not None:
        raise ValueError("item_weights: found a tensor, allowed: None with several targets per token")


def check_weights(hidden: Tensor, num_items: int, token_weights: Tensor | None, item_weights: Tensor | None) -> bool:
    """Weights of tokens and of items: floats of the right shape on hidden's device. Returns whether there are any."""
    if token_weights is None and item_weights is None:
        return False
    for name, given, shape, meaning in (
        ("token_weights", token_weights, hidden.shape[:-1], "hidden's without D"),
        ("item_weights", item_weights, (num_items,), "[V]"),
    ):
        if given is None:
            continue
        if not isinstance(given, Tensor) or not given.is_floating_point() or given.device != hidden.device:
            found = f"{given.dtype} on {given.device}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name}: found {found}, allowed: a tensor of floats on {hidden.device}, or None")
        if given.shape != shape:
            raise ValueError(f"{name}: found the shape {list(given.shape)}, allowed: {meaning}, {list(shape)}")
    return True


def check_values(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int, shard: Shard | None,
    token_weights: Tensor | None, item_weights: Tensor | None,
) -> None:  # fmt: skip
    """Refuse targets out of range, and NaN or infinity in any other tensor: one synchronization.

    The weights of tokens that do not count are not read.
    """
    num_items = weight.shape[0] if shard is None else shard.num_items
    counted = targets != ignore_index
    bad_target = (counted & ((targets < 0) | (targets >= num_items))).any()
    read_weights = None if token_weights is None else torch.where(counted, token_weights, 0)
    given = {
        "hidden": hidden, "weight": weight, "bias": bias, "token_weights": read_weights, "item_weights": item_weights,
    }  # fmt: skip
    named = {name: x.detach() for name, x in given.items() if x is not None and x.numel()}
    # aminmax carries NaN through and needs no [V, D] of booleans.
    finite = [torch.stack(torch.aminmax(x)).isfinite().all() for x in named.values()]
    flags = torch.stack([bad_target, *(~flag for flag in finite)]).tolist()
    if shard is not None:
        shard.check_tokens(targets)
    if flags[0]:
        raise ValueError(
            f"targets: found an id out of range, allowed: [0, {num_items}) and ignore_index {ignore_index}"
        )
    for name, flag in zip(named, flags[1:], strict=True):
        if flag:
            raise ValueError(f"{name}: found NaN or infinity, allowed: finite numbers")
