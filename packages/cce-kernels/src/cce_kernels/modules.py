"""Module forms of the losses, for people who configure a loss once."""

from typing import Any

from torch import Tensor, nn

from cce_kernels import validation
from cce_kernels.checks import plain_flag, plain_integer
from cce_kernels.full_api import linear_cross_entropy
from cce_kernels.sampled.objectives import Objective, Softmax
from cce_kernels.sampled.samplers import Sampler, Uniform
from cce_kernels.sampled.validation import (
    DEFAULT_TILE_TOKENS,
    Sharing,
    check_counter,
    check_objective,
    check_sampler,
    check_sharing,
)
from cce_kernels.sampled_api import sampled_linear_cross_entropy
from cce_kernels.validation import Impl, Reduction

_FULL_OPTIONS = (
    "ignore_index",
    "softcap",
    "temperature",
    "label_smoothing",
    "reduction",
    "filter_eps",
    "check",
    "impl",
)
_SAMPLED_OPTIONS = (
    "num_negatives", "seed", "sampler", "objective", "sharing", "tile_tokens", "ignore_index", "reduction",
    "deterministic", "sparse_grad", "check", "impl",
)  # fmt: skip


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` with its options fixed; the function also returns the log-sum-exp, if asked.

    Raises:
        ValueError: an option is wrong.
    """

    def __init__(
        self,
        *,
        ignore_index: int = validation.DEFAULT_IGNORE_INDEX,
        softcap: float | None = None,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        filter_eps: float | None = None,
        check: bool = False,
        impl: Impl = "auto",
    ) -> None:
        ignore_index = plain_integer(ignore_index)
        validation.check_common_options(reduction, impl, ignore_index)
        validation.check_full(softcap, filter_eps, temperature, label_smoothing)
        check = plain_flag("check", check)
        super().__init__()
        self.ignore_index, self.softcap, self.reduction = ignore_index, softcap, reduction
        self.filter_eps, self.check, self.impl = filter_eps, check, impl
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def extra_repr(self) -> str:
        """The options, for printing."""
        return ", ".join(f"{name}={value!r}" for name, value in _options(self, _FULL_OPTIONS).items())

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        *,
        bias: Tensor | None = None,
        token_weights: Tensor | None = None,
        item_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in `linear_cross_entropy`."""
        loss: Tensor = linear_cross_entropy(
            hidden, weight, targets, bias=bias, token_weights=token_weights, item_weights=item_weights,
            **_options(self, _FULL_OPTIONS),
        )  # fmt: skip
        return loss


class SampledLinearCrossEntropy(nn.Module):
    """`sampled_linear_cross_entropy` with its options fixed; the step is given at each call.

    A tensor given as `seed` becomes a buffer, which is not saved: `.to()` moves it, and DistributedDataParallel hands
    rank 0's to all (ranks with one seed are kept apart by `row_offset`).

    Raises:
        ValueError: an option is wrong.
    """

    seed: Tensor | int

    def __init__(
        self,
        num_negatives: int,
        seed: Tensor | int,
        *,
        sampler: Sampler = Uniform(),  # noqa: B008 - frozen, without state
        objective: Objective = Softmax(),  # noqa: B008 - frozen, without state
        sharing: Sharing = "none",
        tile_tokens: int = DEFAULT_TILE_TOKENS,
        ignore_index: int = validation.DEFAULT_IGNORE_INDEX,
        reduction: Reduction = "mean",
        deterministic: bool = False,
        sparse_grad: bool = False,
        check: bool = False,
        impl: Impl = "auto",
    ) -> None:
        num_negatives, seed, tile_tokens, ignore_index = map(
            plain_integer, (num_negatives, seed, tile_tokens, ignore_index)
        )
        validation.check_common_options(reduction, impl, ignore_index)
        check_sharing(num_negatives, sharing, tile_tokens)
        check_counter("seed", seed, None, 2**63)
        check_sampler(sampler)
        check_objective(objective, sampler)
        deterministic, sparse_grad = plain_flag("deterministic", deterministic), plain_flag("sparse_grad", sparse_grad)
        check = plain_flag("check", check)
        super().__init__()
        if isinstance(seed, Tensor):
            self.register_buffer("seed", seed, persistent=False)
        else:
            self.seed = seed
        self.num_negatives, self.sampler, self.objective = num_negatives, sampler, objective
        self.sharing, self.tile_tokens = sharing, tile_tokens
        self.ignore_index, self.reduction = ignore_index, reduction
        self.deterministic, self.sparse_grad, self.check, self.impl = deterministic, sparse_grad, check, impl

    def extra_repr(self) -> str:
        """The options, for printing."""
        options = _options(self, _SAMPLED_OPTIONS)
        sampler = type(options.pop("sampler")).__name__
        return ", ".join(f"{name}={value!r}" for name, value in options.items()) + f", sampler={sampler}"

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        *,
        step: Tensor | int,
        row_offset: Tensor | int = 0,
        bias: Tensor | None = None,
        token_weights: Tensor | None = None,
        item_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in `sampled_linear_cross_entropy`."""
        loss: Tensor = sampled_linear_cross_entropy(
            hidden, weight, targets, step=step, row_offset=row_offset, bias=bias, token_weights=token_weights,
            item_weights=item_weights, **_options(self, _SAMPLED_OPTIONS),
        )  # fmt: skip
        return loss


def _options(module: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}
