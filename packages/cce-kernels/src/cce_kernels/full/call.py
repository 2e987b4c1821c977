"""All arguments of a call of the full loss, in one container from the API to the kernels."""

from typing import NamedTuple

from torch import Tensor


class FullCall(NamedTuple):
    """The fields, in the types of an operator's schema."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN
    ignore_index: int
    softcap: float | None  # scores become `softcap * tanh(s / softcap)`
    temperature: float  # capped scores are divided by it
    filter_eps: float | None  # Triton only: skip tiles whose probabilities are all below this; None is exact
    with_dhidden: bool  # Triton only: forward computes dH
    with_predicted: bool = False  # forward also finds the item of the highest score
