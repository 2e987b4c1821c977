"""What the sampled losses require of their options. All errors are ValueErrors that name the argument."""

from typing import Literal, get_args

import torch
from torch import Tensor

from cce_kernels.checks import check_choice, check_integer
from cce_kernels.sampled.objectives import BCE, GBCE, Objective, Softmax
from cce_kernels.sampled.samplers import InBatch, Mixed, Popularity, Sampler, Uniform
from cce_kernels.validation import DEFAULT_IGNORE_INDEX, MAX_ITEMS, are_sets

MAX_COUNTER = 2**32
Sharing = Literal["none", "tile", "batch"]
DEFAULT_TILE_TOKENS = 64


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
    check_choice("sharing", sharing, get_args(Sharing))
    check_integer("num_negatives", num_negatives, 1, MAX_ITEMS)
    check_integer("tile_tokens", tile_tokens, 1, 1025)
    if sharing != "tile" and tile_tokens != DEFAULT_TILE_TOKENS:
        raise ValueError(
            f"tile_tokens: found {tile_tokens} with sharing={sharing!r}, allowed: with sharing='tile' only"
        )


def check_sampling(
    num_items: int, num_tokens: int, num_negatives: int, seed: Tensor | int, step: Tensor | int,
    row_offset: Tensor | int, sampler: Sampler, sharing: str, tile_tokens: int, device: torch.device | None = None,
) -> None:  # fmt: skip
    """What drawing needs, whatever the objective; tensors among the counters must be on the device, if one is given."""
    check_sharing(num_negatives, sharing, tile_tokens)
    check_counter("seed", seed, device, 2**63)
    check_counter("step", step, device, MAX_COUNTER)
    check_counter("row_offset", row_offset, device, MAX_COUNTER)
    if not isinstance(row_offset, Tensor) and row_offset + num_tokens > MAX_COUNTER:
        raise ValueError(
            f"row_offset: found {row_offset!r} with {num_tokens} tokens, allowed: row numbers below {MAX_COUNTER}"
        )
    check_sampler(sampler)
    drawn = sampler.others if isinstance(sampler, Mixed) else sampler
    if isinstance(drawn, Popularity) and drawn.counts.numel() != num_items:
        raise ValueError(f"sampler: found Popularity.counts of {drawn.counts.numel()} items, allowed: V = {num_items}")


def check_sampler(sampler: Sampler) -> None:
    """What a sampler is, without the table it draws from."""
    if not isinstance(sampler, Uniform | Popularity | InBatch):
        raise ValueError(f"sampler: found {sampler!r}, allowed: Uniform(), Popularity(counts), InBatch(), Mixed()")
    if isinstance(sampler, InBatch) and sampler.pool is not None:
        pool = sampler.pool
        if not isinstance(pool, Tensor) or pool.dtype != torch.int64 or pool.dim() != 1:
            found = f"{list(pool.shape)} of {pool.dtype}" if isinstance(pool, Tensor) else type(pool).__name__
            raise ValueError(f"sampler: found InBatch.pool {found}, allowed: int64 [K], targets to draw among")
    if not isinstance(sampler, Uniform) and not (sampler.logq is None or isinstance(sampler.logq, bool)):
        raise ValueError(f"sampler: found logq={sampler.logq!r}, allowed: True, False, None")


def check_objective(objective: Objective, sampler: Sampler, *, return_lse: bool = False) -> None:
    """An objective, and that it contradicts neither the sampler (one that `check_sampler` has passed) nor an option."""
    if not isinstance(objective, Softmax | BCE | GBCE):
        raise ValueError(f"objective: found {objective!r}, allowed: Softmax(), BCE(), GBCE()")
    if not isinstance(objective, Softmax) and not isinstance(sampler, Uniform) and sampler.logq:
        raise ValueError(
            f"sampler: found logq=True with {type(objective).__name__}, "
            "allowed: None or False, because it corrects the softmax only"
        )
    if return_lse and not isinstance(objective, Softmax):
        raise ValueError(f"return_lse: found True with {type(objective).__name__}, allowed: with Softmax only")


def check_one_target(hidden: Tensor, targets: Tensor) -> None:
    """Refuse sets of targets, which the full loss takes."""
    if are_sets(hidden, targets):
        raise ValueError(
            f"targets: found {targets.shape[-1]} per token, allowed: one; repeat the token for each of its targets, "
            f"with token_weights=1/{targets.shape[-1]}"
        )


def check_draw(
    num_tokens: int, num_items: int, num_negatives: int, seed: Tensor | int, step: Tensor | int,
    row_offset: Tensor | int, sampler: Sampler, sharing: str, tile_tokens: int, targets: Tensor | None,
    ignore_index: int,
) -> None:  # fmt: skip
    """Arguments of `draw_negatives`."""
    check_integer("num_tokens", num_tokens, 0, MAX_COUNTER + 1)
    check_integer("num_items", num_items, 1, MAX_ITEMS + 1)
    check_integer("ignore_index", ignore_index, -(2**63), 2**63)
    check_sampling(num_items, num_tokens, num_negatives, seed, step, row_offset, sampler, sharing, tile_tokens)
    if not isinstance(sampler, InBatch):
        read, name = "allowed: with InBatch and Mixed only, which draw among targets", type(sampler).__name__
        if targets is not None:
            raise ValueError(f"targets: found with {name}, {read}")
        if ignore_index != DEFAULT_IGNORE_INDEX:
            raise ValueError(f"ignore_index: found {ignore_index} with {name}, {read}")
    elif not isinstance(targets, Tensor):
        raise ValueError(
            f"targets: found {type(targets).__name__} with {type(sampler).__name__}, which draws among them, "
            "allowed: a tensor"
        )
    elif targets.shape != (num_tokens,):
        raise ValueError(f"targets: found the shape {list(targets.shape)}, allowed: [num_tokens] = [{num_tokens}]")
    elif targets.dtype != torch.int64:
        raise ValueError(f"targets: found {targets.dtype}, allowed: int64")
    places = {
        name: x.device
        for name, x in (("seed", seed), ("step", step), ("row_offset", row_offset), ("targets", targets))
        if isinstance(x, Tensor)
    }
    if len(set(places.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in places.items())
        raise ValueError(f"{' and '.join(places)}: found {found}, allowed: one device")
