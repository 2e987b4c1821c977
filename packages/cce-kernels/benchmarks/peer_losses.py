"""The full loss of this package and of its peers, each called as its own documentation says is fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from losses import Loss, cut, eager_full, liger_full, ours_full, torch_linear_ce
from points import Inputs, Point
from torch import Tensor
from torch.nn import functional


def compiled_full(inputs: Inputs, point: Point) -> Tensor:
    """Plain torch, compiled for the shape of the point."""
    return _compiled()(inputs.hidden, inputs.weight, inputs.targets)


@lru_cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    torch._dynamo.config.recompile_limit = 64  # a shape each
    return torch.compile(
        lambda hidden, weight, targets: functional.cross_entropy(hidden @ weight.T, targets), dynamic=False
    )


def liger_chunks(inputs: Inputs, point: Point, times: int = 64) -> Tensor:
    """Liger's loss in Triton with chunks of logits that many times as large: more memory, fewer launches."""
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

    defaults = (None, None, -100, 0.0, 0.0, "mean", None, False, None, False, False, False, None, None)
    outputs = LigerFusedLinearCrossEntropyFunction.apply(inputs.hidden, inputs.weight, inputs.targets, *defaults, times)
    return outputs[0]


def liger_sm90_stored(inputs: Inputs, point: Point) -> Tensor:
    """Liger's fused linear cross-entropy for Hopper, which keeps the logits between forward and backward."""
    from liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90 import liger_fused_linear_cross_entropy_sm90

    return liger_fused_linear_cross_entropy_sm90(inputs.hidden, inputs.weight, inputs.targets)


def liger_sm90_scaled(inputs: Inputs, point: Point) -> Tensor:
    """Liger's fused scaled cross-entropy, whose frontend takes the kernels for Hopper. No target is ignored here."""
    os.environ["LIGER_SCALED_CE_SM90_VALIDATE_TARGETS"] = "0"  # its documentation: the check waits for the GPU
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    return LigerFusedLinearScaledCrossEntropyFunction.apply(inputs.hidden, inputs.weight, inputs.targets).mean()


def quack(inputs: Inputs, point: Point) -> Tensor:
    """The chunked loss of quack; where V is a multiple of 128 it takes the faster of its two pipelines on its own."""
    return _quack()(inputs.hidden, inputs.weight, inputs.targets)


@lru_cache
def _quack() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    import logging

    # quack 0.6.5 derives a key from all that a kernel refers to, and refuses to be imported where that includes the
    # logger of nvidia-cutlass-dsl 4.7. Its error message says to give such a value this method.
    logging.Logger.__quack_semantic_key__ = lambda self: ("logger", self.name)  # type: ignore[attr-defined]
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy


def fla(inputs: Inputs, point: Point, **options: Any) -> Tensor:
    """flash-linear-attention's fused linear cross-entropy, by default with dW summed in fp32."""
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

    return fused_linear_cross_entropy_loss(inputs.hidden, inputs.targets, inputs.weight, **options)


@dataclass(frozen=True)
class Peer:
    """A loss that is measured: what is called, whose versions belong to the figures, and what fits an H200."""

    loss: Loss
    packages: tuple[str, ...] = ()
    stored: int = 0  # bytes of the logits [M, V] at the peak, per pair of a token and an item
    most_flops: float = float("inf")  # above it a call takes seconds
    multiple: int = 1  # of V; it is tried once at another V

    def wants(self, point: Point) -> bool:
        """Whether the peer is tried at a point."""
        pairs = point.tokens * point.items
        if point.items % self.multiple and point.name != "v176450":
            return False
        if point.name.endswith("-256") and self.multiple == 1 and self.loss is not ours_full:
            return False  # measured at the catalogue's own V
        return pairs * self.stored < 110e9 and point.flops <= self.most_flops

    def versions(self) -> str | None:
        """The packages and their versions, or None where one is not installed."""
        try:
            return ", ".join(f"{name} {version(name)}" for name in self.packages)
        except PackageNotFoundError:
            return None


CUTE = ("nvidia-cutlass-dsl",)
PEERS = {
    "ours": Peer(ours_full),
    "eager torch": Peer(eager_full, stored=8),
    "torch.compile": Peer(compiled_full, stored=8),
    "quack": Peer(quack, ("quack-kernels", *CUTE), multiple=128),
    "liger-kernel": Peer(liger_full, ("liger-kernel",), most_flops=5e13),
    "liger-kernel, larger chunks": Peer(liger_chunks, ("liger-kernel",)),
    "liger-kernel, Hopper": Peer(liger_sm90_scaled, ("liger-kernel", *CUTE)),
    "liger-kernel, Hopper, logits kept": Peer(liger_sm90_stored, ("liger-kernel", *CUTE), stored=3, multiple=256),
    "cut-cross-entropy": Peer(cut, ("cut-cross-entropy",)),
    "cut-cross-entropy, unfiltered": Peer(partial(cut, filter_eps=None), ("cut-cross-entropy",), most_flops=5e13),
    "fla": Peer(fla, ("fla-core",)),
    "fla, dW in bf16": Peer(partial(fla, accumulate_grad_in_fp32=False), ("fla-core",)),
}
if hasattr(torch.nn, "LinearCrossEntropyOptions"):
    PEERS["torch linear_cross_entropy"] = Peer(torch_linear_ce)
