"""Adam that keeps less state for the item table, or updates fewer of its rows.

With a catalogue of millions of items, the table and its two moments are nearly all of the memory, and reading and
writing them is nearly all of the optimizer's time. The formula is Adam's (Kingma and Ba, 2015) with bias-corrected
``m`` and ``v``; what differs is how they are stored, and when rows are updated. A second moment shared by a row is that
of FBGEMM's partial row-wise Adam: the mean of the squares.

A lazy update is that of the rows whose gradient is not zero: those that the batch read, drew or predicted. Adam would
have moved a row in the steps between as well: with zero gradients ``m`` and ``v`` shrink by beta 1 and beta 2 per step,
and the row moves by ``rate m / sqrt(v)``. Over n such steps the sum is ``rate m / sqrt(v) (r + ... + r^n)`` with
``r = beta1 / sqrt(beta2)``. The row moves by this sum before its next update, or by `TableAdam.catch_up`. (The bias
corrections are those of the last update, and epsilon is added once: an approximation in the first hundred steps, and
where gradients are near epsilon.) torch's SparseAdam omits the sum, so that rare rows move several times less than with
Adam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cce_kernels.hardware import is_ampere_or_newer

_CHUNK_ELEMENTS = 1 << 22  # of the table at a time, where temporaries are made: 16 MiB each


class TableAdam(torch.optim.Adam):
    """Adam for all parameters except the item table, which is updated on its own, in one pass.

    Args:
        groups: the parameters; all but the table have two fp32 moments. The last group holds the table.
        table: [V, D] the item table.
        moments: dtype of the table's moments. With fp32 the state is that of `torch.optim.Adam`.
        rowwise: one second moment per row, in fp32.
        lazy: update only rows whose gradient is not zero; then without ``weight_decay``.
        options: of `torch.optim.Adam`: ``lr``, ``betas`` (both above 0) and ``weight_decay`` (L2 penalty, added to the
            gradient).
    """

    def __init__(
        self, groups: Sequence[Sequence[Tensor]], table: Tensor, *, moments: torch.dtype, rowwise: bool,
        lazy: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__([{"params": list(group)} for group in groups], fused=True, **options)
        self._step_supports_amp_scaling = False  # a scaler then divides the gradients before the step
        self._table = table
        self._moments = moments
        self._rowwise = rowwise
        self._lazy = lazy

    def step(self, closure: Any = None) -> Any:
        """One step of all parameters that have a gradient."""
        assert closure is None
        grad, self._table.grad = self._table.grad, None  # torch's own step then leaves the table alone
        if grad is not None:
            with torch.no_grad():
                self._update_table(grad)
        for group in self.param_groups:
            self._update_others(group)
        self._table.grad = grad

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like torch's, which would convert the moments to the dtype of their parameter."""
        super().load_state_dict(state_dict)
        state = self.state.get(self._table)
        if state:
            state["exp_avg"] = state["exp_avg"].to(self._moments)
            state["exp_avg_sq"] = state["exp_avg_sq"].to(torch.float32 if self._rowwise else self._moments)
            if "last" in state:
                state["last"] = state["last"].to(torch.int32)

    @torch.no_grad()
    def catch_up(self) -> None:
        """After lazy updates, apply the missed steps to all rows; call it before the table is used."""
        state = self.state.get(self._table, {})
        if "last" not in state:
            return
        tensors = self._table, state["exp_avg"], state["exp_avg_sq"], state["last"]
        for table, first, second, last in self._chunks(tensors):
            _go_without_gradient(table, first, second, last, state["step"] - last, self.param_groups[-1])
        state["last"].copy_(state["step"].to(torch.int32).expand_as(state["last"]))

    def _chunks(self, tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        rows = max(1, _CHUNK_ELEMENTS // self._table.shape[1])
        return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[self._table]
        if not state:
            table = self._table
            state["step"] = table.new_zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(table, dtype=self._moments)
            kind = torch.float32 if self._rowwise else self._moments
            state["exp_avg_sq"] = table.new_zeros(table.shape[0], 1 if self._rowwise else table.shape[1], dtype=kind)
            if self._lazy:  # the step that last updated a row
                state["last"] = table.new_zeros(table.shape[0], 1, dtype=torch.int32)
        return state

    @torch.no_grad()
    def _update_others(self, group: dict[str, Any]) -> None:
        """All of a group that have a gradient, except the table, in one launch on an Ampere or newer, else by torch."""
        found: list[list[Tensor]] = [[] for _ in range(6)]
        self._init_group(group, *found)  # type: ignore[no-untyped-call]
        tensors, grads, firsts, seconds, _, steps = found
        if not tensors:
            return
        torch._foreach_add_(steps, 1)
        if is_ampere_or_newer(tensors[0].device):
            from rec_models.optim.adam_tensors import launch_adam_tensors

            launch_adam_tensors(tensors, [grad.contiguous() for grad in grads], firsts, seconds, steps, group)
        else:
            for tensor, grad, first, second, step in zip(tensors, grads, firsts, seconds, steps, strict=True):
                rows = [part.view(1, -1) for part in (tensor, grad.contiguous(), first, second)]
                adam_rows(rows[0], rows[1], rows[2], rows[3], step, group)

    def _update_table(self, grad: Tensor) -> None:
        state, group = self._state(), self.param_groups[-1]
        state["step"] += 1
        moments = state["exp_avg"], state["exp_avg_sq"]
        if is_ampere_or_newer(grad.device):
            from rec_models.optim.adam_rows import launch_adam_rows

            launch_adam_rows(self._table, grad.contiguous(), *moments, state["step"], group, state.get("last"))
        elif self._lazy:
            for table, slope, first, second, last in self._chunks((self._table, grad, *moments, state["last"])):
                adam_lazy_rows(table, slope, first, second, last, state["step"], group)
        else:
            for table, slope, first, second in self._chunks((self._table, grad, *moments)):
                adam_rows(table, slope, first, second, state["step"], group)


def adam_rows(
    table: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: Tensor, group: Mapping[str, Any]
) -> None:
    """Update rows in place: ``w -= rate * m' / (sqrt(v') + epsilon)``, m' and v' corrected for their start at 0.

    Table, gradient and `first` (m, any float dtype) are [R, D], `second` (v) is [R, D], or [R, 1]: of the mean square
    of a row. `step` of this update, from 1, is a scalar on any device; `group` has ``lr``, ``betas``, ``eps`` and
    ``weight_decay`` (L2).
    """
    betas = group["betas"]
    slope = grad.to(table.dtype).add(table, alpha=group["weight_decay"])  # [R, D]
    square = slope.square()
    if second.shape[1] == 1:
        square = square.mean(1, keepdim=True)
    m = first.to(table.dtype).mul(betas[0]).add_(slope, alpha=1 - betas[0])
    v = second.to(table.dtype).mul(betas[1]).add_(square, alpha=1 - betas[1])
    first.copy_(m)
    second.copy_(v)
    divisor = v.div_(1 - betas[1] ** step).sqrt_().add_(group["eps"])
    table.sub_(m.div_(1 - betas[0] ** step).div_(divisor), alpha=group["lr"])


def adam_lazy_rows(
    table: Tensor, grad: Tensor, first: Tensor, second: Tensor, last: Tensor, step: Tensor, group: Mapping[str, Any]
) -> None:
    """Apply missed steps, then `adam_rows`, to the rows whose gradient is not zero, in place.

    `last` [R, 1] int32 is the step that last updated a row, the other arguments are as of `adam_rows`.
    """
    rows = grad.any(1).nonzero().squeeze(1)
    w, slope, when = (tensor.index_select(0, rows) for tensor in (table, grad, last))
    m, v = (tensor.index_select(0, rows).to(table.dtype) for tensor in (first, second))  # rounded once, at the end
    _go_without_gradient(w, m, v, when, step - 1 - when, group)
    adam_rows(w, slope, m, v, step, group)
    for tensor, part in ((table, w), (first, m), (second, v)):
        tensor.index_copy_(0, rows, part.to(tensor.dtype))
    last.index_copy_(0, rows, step.to(torch.int32).expand_as(when))


def _go_without_gradient(
    table: Tensor, first: Tensor, second: Tensor, last: Tensor, missed: Tensor, group: Mapping[str, Any]
) -> None:
    """Move rows [R, D] as Adam would in `missed` [R, 1] steps after step `last` [R, 1]; see the module's docstring."""
    assert group["weight_decay"] == 0
    betas = group["betas"]
    ratio = betas[0] / math.sqrt(betas[1])
    times = (1 - ratio**missed) * (ratio / (1 - ratio))  # [R, 1]
    since = last.clamp_min(1)  # m of an untouched row is 0
    divisor = (second / (1 - betas[1] ** since)).sqrt_().add_(group["eps"])
    table.sub_(first / (1 - betas[0] ** since) / divisor * times, alpha=group["lr"])
    first.mul_(betas[0] ** missed)
    second.mul_(betas[1] ** missed)
