"""Losses that bring their own gradient: the one place that registers them with autograd and with torch.compile."""

from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.compiler import is_compiling

from cce_kernels.dtypes import without_autocast
from cce_kernels.reduction import reduce_loss, upstream_of

Gradients = tuple[Tensor | None, ...]
_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor", Tensor | None: "Tensor?", int: "SymInt", float: "float", float | None: "float?", bool: "bool",
    str: "str",
}  # fmt: skip


class CustomLoss:
    """A loss of tokens with a gradient of its own.

    Eager mode runs it in an autograd function, which also reduces the loss: the dispatch of an operator costs more than
    the kernels of a small batch. torch.compile sees two operators, `cce_kernels::{name}_forward` and
    `cce_kernels::{name}_backward`: it would unroll a loop over chunks, and compile again for every number of tokens.

    Args:
        name: prefix of the operators.
        call: the NamedTuple of all arguments. Tensors come first, among them hidden, weight and bias in this order.
        forward: maps a call to its outputs: the loss [M], other values for the user (None: unwanted), and what backward
            reads.
        backward: maps (upstream gradient of the losses, [M] or a scalar for all; call; kept outputs; is the gradient of
            hidden wanted; is that of weight or bias; upstream gradients of the other values, [M] or a scalar for all,
            None where nothing depends on them) to the gradients of hidden, weight and bias, None where unwanted.
        empty_outputs: maps a call to uninitialized outputs.
        kept: names of the outputs that only backward reads; they come last.
        shown: how many outputs the user sees.
        differentiable: how many of them may be differentiated, the first ones; None: all.
        reduce: what `reduction.reduce_loss` does.
    """

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        forward: Callable[[Any], tuple[Tensor | None, ...]],
        backward: Callable[..., Gradients],
        empty_outputs: Callable[[Any], tuple[Tensor | None, ...]],
        *,
        kept: tuple[str, ...],
        shown: int = 1,
        differentiable: int | None = None,
        reduce: Callable[[Tensor, Tensor, int, str], tuple[Tensor, Tensor | None]] = reduce_loss,
    ) -> None:
        self.call, self.forward, self.backward, self.shown, self.reduce = call, forward, backward, shown, reduce
        hints = get_type_hints(call)
        self.num_tensors = sum(hint in (Tensor, Tensor | None) for hint in hints.values())
        self.num_fields = len(hints)
        self.differentiable = smooth = shown if differentiable is None else differentiable
        fields = ", ".join(f"{_SCHEMA_TYPES[hint]} {field}" for field, hint in hints.items())
        outputs = shown + len(kept)
        returned = "Tensor" if outputs == 1 else f"({', '.join(['Tensor'] * outputs)})"
        extra = "".join(f", Tensor {output}" for output in kept)
        upstream = "".join(f"Tensor? grad_{i}, " for i in range(1, smooth))

        def single(results: tuple[Tensor | None, ...]) -> Any:
            assert results[0] is not None
            return results[0] if outputs == 1 else _present(results, results[0])

        def run_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
            others, (*tensors, with_hidden, with_weight) = arguments[: smooth - 1], arguments[smooth - 1 :]
            fields, kept = tensors[: self.num_fields], tensors[self.num_fields :]
            with without_autocast(grad.device.type):
                return _present(backward(grad, call(*fields), kept, with_hidden, with_weight, *others), tensors[0])

        def fake_backward(_: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
            hidden, weight, bias = arguments[smooth - 1 : smooth + 2]
            with_hidden, with_weight = arguments[-2:]
            wanted = hidden if with_hidden else None, weight if with_weight else None, bias if with_weight else None
            return _present(tuple(None if x is None else torch.empty_like(x) for x in wanted), hidden)

        self.forward_operator = torch.library.custom_op(
            f"cce_kernels::{name}_forward",
            lambda *arguments: single(forward(call(*arguments))),
            mutates_args=(),
            schema=f"({fields}) -> {returned}",
        )
        self.backward_operator = torch.library.custom_op(
            f"cce_kernels::{name}_backward",
            run_backward,
            mutates_args=(),
            schema=f"(Tensor grad, {upstream}{fields}{extra}, bool with_hidden, bool with_weight) "
            "-> (Tensor, Tensor, Tensor)",
        )
        self.forward_operator.register_fake(lambda *arguments: single(empty_outputs(call(*arguments))))
        self.backward_operator.register_fake(fake_backward)
        self.forward_operator.register_autograd(self._operator_backward, setup_context=self._setup_operator)

    def __call__(self, call: Any, reduction: str, *, eager_backward: Callable[..., Gradients] | None = None) -> Any:
        """The reduced loss, then the other values; `eager_backward` replaces `backward` and breaks a compiled graph."""
        if is_compiling() and eager_backward is None:
            outputs = self.forward_operator(*call)
            loss, *others = (outputs,) if isinstance(outputs, Tensor) else outputs
            return reduce_loss(loss, call.targets, call.ignore_index, reduction)[0], *others[: self.shown - 1]
        # The other fields go along in the call: an autograd function looks at each of its arguments.
        return _Eager.apply(self, eager_backward or self.backward, reduction, call, *call[:3])  # type: ignore[no-untyped-call]

    def keep(self, ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor | None, ...]) -> None:
        """Save what backward needs."""
        ctx.save_for_backward(*arguments[: self.num_tensors], *outputs[self.shown :])
        ctx.options = arguments[self.num_tensors :]
        ctx.set_materialize_grads(False)

    def gradients(
        self, ctx: Any, upstream: tuple[Tensor | None, ...], count: Tensor | None, needs: tuple[bool, ...],
        backward: Callable[..., Gradients] | None,
    ) -> Gradients:  # fmt: skip
        """Gradients of hidden, weight and bias, from `backward` or, where it is None, from the operator.

        `upstream` are the gradients of the loss, which was divided by `count`, and of the other values.
        """
        given = [x for x in upstream if x is not None]
        if not given:
            return None, None, None
        refuse_transforms(*given)
        others = [None if x is None else upstream_of(x) for x in upstream[1:]]
        grad = given[0].new_zeros(()) if upstream[0] is None else upstream_of(upstream[0], count)
        saved = ctx.saved_tensors  # read once: checkpointing recomputes them only once
        kept = saved[self.num_tensors :]
        fields, flags = (*saved[: self.num_tensors], *ctx.options), (needs[0], needs[1] or needs[2])
        if backward is None:
            found: Gradients = self.backward_operator(grad, *others, *fields, *kept, *flags)
        else:
            with without_autocast(grad.device.type):  # that of `loss.backward()`, not of the forward
                found = backward(grad, self.call(*fields), kept, *flags, *others)
        return tuple(gradient if need else None for gradient, need in zip(found, needs, strict=True))

    def _setup_operator(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = (output,) if isinstance(output, Tensor) else output
        self.keep(ctx, inputs, outputs)
        ctx.mark_non_differentiable(*outputs[self.differentiable :])

    def _operator_backward(self, ctx: Any, *upstream: Tensor | None) -> Gradients:
        found = self.gradients(ctx, upstream[: self.differentiable], None, ctx.needs_input_grad[:3], None)
        return *found, *(None,) * (self.num_fields - 3)


def _present(gradients: Gradients, like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors only: an empty one in the place of None."""
    return tuple(like.new_empty(0) if gradient is None else gradient for gradient in gradients)


def refuse_transforms(*upstream: Tensor) -> None:
    """Refuse `torch.func`, whose transforms need a derivative of the gradient, or kernels that work on batches.

    Args:
        upstream: upstream gradients; a batch of them (`is_grads_batched=True`) is refused too.

    Raises:
        RuntimeError: a transform is active.
    """
    batched = any(map(torch._C._functorch.is_legacy_batchedtensor, upstream))
    if batched or torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "cce_kernels: found a transform of torch.func (grad, vmap, jvp, ...) or a batch of upstream gradients, "
            "allowed: loss.backward() and torch.autograd.grad, one gradient at a time; "
            "hidden [..., D] takes any leading dimensions in the place of vmap"
        )


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate the `backward` of an autograd function that has no derivative of its own.

    With `create_graph=True` every gradient gets a `grad_fn` that raises a RuntimeError, connected to everything that it
    depends on. torch's `once_differentiable` adds one only where the upstream gradient is itself part of a
    graph; for a loss it is the constant 1, so a gradient penalty would be dropped silently.
    """

    @wraps(backward)
    def run(ctx: Any, *upstream: Tensor | None) -> Gradients:
        if not torch.is_grad_enabled():  # the usual case: no create_graph
            return backward(ctx, *upstream)
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        on = [x for x in (*ctx.saved_tensors, *upstream) if x is not None and x.requires_grad]
        return tuple(x if x is None else _Final.apply(x.requires_grad_(), *on) for x in gradients)  # type: ignore[no-untyped-call]

    return run


class _Eager(torch.autograd.Function):
    """A `CustomLoss` without the dispatch of its operators."""

    @staticmethod
    def forward(
        ctx: Any, loss: CustomLoss, backward: Callable[..., Gradients], reduction: str, call: Any, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        outputs = loss.forward(call)
        assert outputs[0] is not None
        loss.keep(ctx, call, outputs)
        ctx.loss, ctx.run_backward = loss, backward
        reduced, ctx.count = loss.reduce(outputs[0], call.targets, call.ignore_index, reduction)
        return reduced, *outputs[1 : loss.shown]

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> Gradients:
        loss: CustomLoss = ctx.loss
        gradients = loss.gradients(
            ctx, upstream[: loss.differentiable], ctx.count, ctx.needs_input_grad[4:], ctx.run_backward
        )
        return (None, None, None, None, *gradients)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> None:
        raise RuntimeError(
            "cce_kernels: found forward-mode differentiation, allowed: loss.backward() and torch.autograd.grad"
        )


class _Final(torch.autograd.Function):
    """The first argument, whose derivative with respect to any argument is refused."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "cce_kernels: the gradient of a loss cannot be differentiated again (create_graph=True); "
            "compute gradient penalties from logits in plain torch"
        )
