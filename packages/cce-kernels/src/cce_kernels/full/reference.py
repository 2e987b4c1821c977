"""The full loss in eager torch: the specification, and the CPU path.

`L_m = logsumexp_j s_mj - s_mt`, `s_mj = cap(h_m . w_j + b_j)`, `cap(x) = c tanh(x / c)` with softcap c, else x.
Gradient: `dL/ds_mj = p_mj - [j = t]`, with `p = exp(s - lse)`; the cap multiplies it by `1 - (s / c)^2`.
As in the kernels, the target is left out of the sum, so that nothing is lost where the model is sure of it: with
`x = logsumexp_{j != t} s_mj - s_mt`, the loss is `log(1 + e^x)` and `1 - p_mt = 1 / (1 + e^-x)`.
Tokens and items are worked on in chunks: no [M, V] tensor exists, in forward or backward. Arithmetic is fp32 for
16-bit inputs and float64 where an input is.

Eager mode calls `forward` and `backward` from an autograd function; torch.compile sees them as two custom operators,
because it would unroll the loop over the chunks and compile anew for every number of tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cce_kernels.autograd import first_order
from cce_kernels.reduction import masks

_CHUNK_ELEMENTS = {"cuda": 1 << 24, "cpu": 1 << 22}  # scores that exist at once: 64 MiB, 16 MiB of fp32
_CHUNK_ITEMS = 8192  # at least, where there are as many: products of a few rows wait for memory


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any input is, else fp32."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32


def as_multiplied(weight: Tensor, hidden: Tensor) -> Tensor:
    """Rows of the item table as products see them: rounded to hidden's dtype, as the kernels read them.

    A narrower table is left as it is: it is widened without rounding. Of two 16-bit dtypes neither is the narrower.
    """
    return weight if weight.dtype.itemsize < hidden.dtype.itemsize else weight.to(hidden.dtype)


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of every token.

    Args:
        hidden: [M, D].
        weight: [V, D].
        targets: int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        softcap: bound of the scores, or None.

    Returns:
        loss [M] and lse [M] (not differentiable), fp32 or float64.
    """
    if torch.compiler.is_compiling():
        loss, lse, *_ = reference_full_forward(hidden, weight.contiguous(), bias, targets, ignore_index, softcap)
        return loss, lse
    loss, lse = _Full.apply(hidden, weight, bias, targets, ignore_index, softcap)  # type: ignore[no-untyped-call]
    return loss, lse


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Capped scores [C, V] of a chunk of tokens [C, D]."""
    scores = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def _chunks(hidden: Tensor, weight: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of tokens and slices of items, such that the scores of one pair fit a chunk."""
    num_tokens, num_items = hidden.shape[0], weight.shape[0]
    elements = _CHUNK_ELEMENTS.get(hidden.device.type, _CHUNK_ELEMENTS["cpu"])
    items = min(num_items, max(_CHUNK_ITEMS, elements // max(1, num_tokens)))
    tokens = max(1, elements // items)
    return _slices(num_tokens, tokens), _slices(num_items, items)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _places(safe: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Columns [C, 1] of targets [C] in a chunk of items, and whether they lie in it, [C, 1] bool; else any column."""
    columns = (safe - items.start)[:, None]
    inside = (columns >= 0) & (columns < items.stop - items.start)
    return torch.where(inside, columns, 0), inside


def forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss [M], log-sum-exp [M] as it is shown and as `backward` reads it [M], and `1 - p_mt` [M]."""
    dtype = compute_dtype(hidden, weight, bias)
    w = as_multiplied(weight.detach(), hidden).to(dtype)
    b = None if bias is None else bias.detach().to(dtype)
    valid, bad, safe = masks(targets, ignore_index, weight.shape[0])
    rest = hidden.new_full((hidden.shape[0],), -torch.inf, dtype=dtype)  # log-sum-exp of all but the target
    target_score = torch.zeros_like(rest)
    token_chunks, item_chunks = _chunks(hidden, weight)
    for tokens in token_chunks:
        h = hidden.detach()[tokens].to(dtype)
        for items in item_chunks:
            scores = _scores(h, w[items], None if b is None else b[items], softcap)
            columns, inside = _places(safe[tokens], items)
            found = scores.gather(1, columns)
            target_score[tokens] += torch.where(inside, found, 0).squeeze(1)
            scores.scatter_(1, columns, torch.where(inside, -torch.inf, found))
            rest[tokens] = torch.logaddexp(rest[tokens], scores.logsumexp(1))
    lse = torch.logaddexp(rest, target_score)
    # A target at +inf has no finite loss: the difference alone would call it certain.
    x = (rest - target_score).masked_fill_(target_score == torch.inf, torch.nan)
    loss = torch.where(valid, torch.logaddexp(x, torch.zeros_like(x)), 0).masked_fill_(bad, torch.nan)
    return loss, torch.where(valid, lse, 0).masked_fill_(bad, torch.nan), lse, torch.sigmoid(x)


def backward(
    grad_loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    others: Tensor,
    ignore_index: int,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [M, D], weight [V, D] and bias [V] (empty without one), each in the dtype of its tensor."""
    dtype = lse.dtype
    w = as_multiplied(weight, hidden).to(dtype)
    b = None if bias is None else bias.to(dtype)
    valid, bad, safe = masks(targets, ignore_index, weight.shape[0])
    grad = torch.where(valid, grad_loss.to(dtype), 0)
    grad_hidden = torch.zeros_like(hidden, dtype=dtype)
    grad_weight = torch.zeros_like(w)
    grad_bias = weight.new_zeros(0 if b is None else b.shape[0], dtype=dtype)
    token_chunks, item_chunks = _chunks(hidden, weight)
    for tokens in token_chunks:
        h = hidden[tokens].to(dtype)
        for items in item_chunks:
            scores = _scores(h, w[items], None if b is None else b[items], softcap)
            slope = None if softcap is None else 1 - (scores / softcap) ** 2
            coefficient = scores.sub_(lse[tokens, None]).exp_()
            columns, inside = _places(safe[tokens], items)
            coefficient.scatter_(1, columns, torch.where(inside, -others[tokens, None], coefficient.gather(1, columns)))
            if slope is not None:
                coefficient *= slope
            coefficient *= grad[tokens, None]
            grad_hidden[tokens].addmm_(coefficient, w[items])
            grad_weight[items].addmm_(coefficient.T, h)
            if b is not None:
                grad_bias[items] += coefficient.sum(0)
    grad_hidden = grad_hidden.to(hidden.dtype).masked_fill_(bad[:, None], torch.nan)
    return grad_hidden, grad_weight.to(weight.dtype), grad_bias if bias is None else grad_bias.to(bias.dtype)


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = forward(*inputs)
        _setup(ctx, inputs, output)
        ctx.mark_non_differentiable(output[1])
        return output[0], output[1]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, backward, grad)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ignore_index, softcap = inputs
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.options = ignore_index, softcap
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, run: Callable[..., tuple[Tensor, ...]], grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    gradients = run(grad, *ctx.saved_tensors, *ctx.options)
    wanted = (gradient if need else None for gradient, need in zip(gradients, ctx.needs_input_grad[:3], strict=True))
    return *wanted, None, None, None


# The operators: the signatures of `forward` and `backward` are their schemas.
reference_full_forward = torch.library.custom_op("cce_kernels::reference_full_forward", forward, mutates_args=())
reference_full_backward = torch.library.custom_op("cce_kernels::reference_full_backward", backward, mutates_args=())


@reference_full_forward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    dtype = compute_dtype(hidden, weight, bias)
    return tuple(hidden.new_empty(hidden.shape[0], dtype=dtype) for _ in range(4))


@reference_full_backward.register_fake
def _(grad_loss: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    d_bias = weight.new_empty(0, dtype=grad_loss.dtype) if bias is None else torch.empty_like(bias)
    return torch.empty_like(hidden), torch.empty_like(weight), d_bias


def _setup_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _setup(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def _operator_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, reference_full_backward, grad)


reference_full_forward.register_autograd(_operator_backward, setup_context=_setup_operator)
