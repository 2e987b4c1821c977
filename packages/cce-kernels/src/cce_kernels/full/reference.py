"""The full loss in eager torch: the specification, and the CPU path.

`L_m = logsumexp_j s_mj - s_mt`, `s_mj = cap(h_m . w_j + b_j) / tau` with temperature tau, `cap(x) = c tanh(x / c)`
with softcap c, else x. Gradient: `dL/ds_mj = p_mj - [j = t]`, with `p = exp(s - lse)`; the temperature divides it, and
the cap multiplies it by `1 - (tau s / c)^2`.
As in the kernels, the sum leaves out the target, so that no digits are lost where the model is sure of it: with
`b_m = max_{j != t} s_mj`, `T_m = sum_{j != t} e^(s_mj - b_m)` and `x = (b_m - s_mt) + log T_m`, where nothing is
rounded at the size of the scores, the loss is `log(1 + e^x)`, `o_m = 1 - p_mt = 1 / (1 + e^-x)`, and
`p_mj = e^(s_mj - b_m) o_m / T_m`.
Tokens and items are computed in chunks: no [M, V] tensor exists, in forward or backward. Arithmetic is fp32 for
16-bit inputs and float64 where an input is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.dtypes import as_multiplied, sum_dtype
from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks

_CHUNK_ELEMENTS = {"cuda": 1 << 24, "cpu": 1 << 22}  # scores that exist at once: 64 MiB, 16 MiB of fp32
_CHUNK_ITEMS = 8192  # at least, where there are as many: products of a few rows wait for memory


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


def _columns(safe: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Columns [C, 1] of targets [C] in a chunk of items, and whether they lie in it, [C, 1] bool; else any column."""
    columns = (safe - items.start)[:, None]
    inside = (columns >= 0) & (columns < items.stop - items.start)
    return torch.where(inside, columns, 0), inside


def _operands(call: FullCall, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The item table and the bias as scores are computed from them."""
    weight = as_multiplied(call.weight, call.hidden).to(dtype)
    return weight, None if call.bias is None else call.bias.to(dtype)


def _empty_outputs(call: FullCall) -> tuple[Tensor | None, ...]:
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    loss, lse, *kept = (call.hidden.new_empty(call.hidden.shape[0], dtype=dtype) for _ in range(5))
    return loss, lse, torch.empty_like(call.targets) if call.with_predicted else None, *kept


def _forward(call: FullCall) -> tuple[Tensor | None, ...]:
    """Loss, log-sum-exp and predicted item for the user, then `b`, `T` and `o / T` for `_backward`; all [M]."""
    hidden, weight = call.hidden, call.weight
    dtype = sum_dtype(hidden, weight, call.bias)
    w, b = _operands(call, dtype)
    valid, bad, safe = masks(call.targets, call.ignore_index, weight.shape[0])
    base = hidden.new_full((hidden.shape[0],), -torch.inf, dtype=dtype)
    total, target_score = torch.zeros_like(base), torch.zeros_like(base)
    best, predicted = (base.clone(), torch.zeros_like(call.targets)) if call.with_predicted else (base, None)
    token_chunks, item_chunks = _chunks(hidden, weight)
    for tokens in token_chunks:
        h = hidden[tokens].to(dtype)
        for items in item_chunks:
            scores = _scores(h, w[items], None if b is None else b[items], call.softcap)
            if call.temperature != 1.0:
                scores /= call.temperature
            if predicted is not None:
                highest, place = scores.max(1)
                rises = highest > best[tokens]
                predicted[tokens] = torch.where(rises, place + items.start, predicted[tokens])
                best[tokens] = torch.where(rises, highest, best[tokens])
            columns, inside = _columns(safe[tokens], items)
            found = scores.gather(1, columns)
            target_score[tokens] += torch.where(inside, found, 0).squeeze(1)
            scores.scatter_(1, columns, torch.where(inside, -torch.inf, found))
            raised = torch.maximum(base[tokens], scores.amax(1))
            finite = _finite(raised)
            total[tokens] *= torch.exp(base[tokens] - finite)
            total[tokens] += scores.sub_(finite[:, None]).exp_().sum(1)
            base[tokens] = raised
    # A target at +inf has no finite loss: the difference alone would make it a certain one.
    x = (_finite(base) - target_score + total.log()).masked_fill_(target_score == torch.inf, torch.nan)
    lse = torch.logaddexp(base + total.log(), target_score)
    loss = torch.where(valid, torch.logaddexp(x, torch.zeros_like(x)), 0).masked_fill_(bad, torch.nan)
    share = torch.sigmoid(x) / total.masked_fill(total == 0, 1)
    lse = torch.where(valid, lse, 0).masked_fill_(bad, torch.nan)
    return loss, lse, predicted, _finite(base), total, share


def _finite(base: Tensor) -> Tensor:
    """The base of exponents: 0 in the place of an infinite one, so that `s - base` is a number."""
    return torch.where(base.isinf(), 0, base)


def _backward(
    grad_loss: Tensor, call: FullCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool,
    grad_lse: Tensor | None = None,
) -> Gradients:  # fmt: skip
    """DH [M, D], dW [V, D] and db [V], each in the dtype of its tensor.

    With `c_mj = g_m (p_mj - [j = t]) + e_m p_mj` times the slope of the cap, where e_m is the upstream gradient of the
    log-sum-exp: `dH_m = sum_j c_mj w_j`, `dW_j = sum_m c_mj h_m` and `db_j = sum_m c_mj`. Of items that are not the
    target `c_mj = e^(s_mj - b_m) (g_m + e_m) o_m / T_m`, and of the target `e_m - (g_m + e_m) o_m`.
    """
    base, total, share = kept
    hidden, weight, bias, softcap, dtype = call.hidden, call.weight, call.bias, call.softcap, base.dtype
    w, b = _operands(call, dtype)
    valid, bad, safe = masks(call.targets, call.ignore_index, weight.shape[0])
    grad = grad_loss.to(dtype) if grad_lse is None else grad_loss.to(dtype) + grad_lse
    factor = torch.where(valid, grad * share, 0)
    own = -factor * total if grad_lse is None else torch.where(valid, grad_lse - grad * share * total, 0)
    factor, own = factor / call.temperature, own / call.temperature
    d_hidden = torch.zeros_like(hidden, dtype=dtype) if with_hidden else None
    d_weight = torch.zeros_like(w) if with_weight else None
    d_bias = torch.zeros_like(b) if with_weight and b is not None else None
    token_chunks, item_chunks = _chunks(hidden, weight)
    for tokens in token_chunks:
        h = hidden[tokens].to(dtype)
        for items in item_chunks:
            scores = _scores(h, w[items], None if b is None else b[items], softcap)
            slope = None if softcap is None else 1 - (scores / softcap) ** 2
            if call.temperature != 1.0:
                scores /= call.temperature
            coefficient = scores.sub_(base[tokens, None]).exp_().mul_(factor[tokens, None])
            columns, inside = _columns(safe[tokens], items)
            coefficient.scatter_(1, columns, torch.where(inside, own[tokens, None], coefficient.gather(1, columns)))
            if slope is not None:
                coefficient *= slope
            if d_hidden is not None:
                d_hidden[tokens].addmm_(coefficient, w[items])
            if d_weight is not None:
                d_weight[items].addmm_(coefficient.T, h)
            if d_bias is not None:
                d_bias[items] += coefficient.sum(0)
    return (
        None if d_hidden is None else d_hidden.to(hidden.dtype).masked_fill_(bad[:, None], torch.nan),
        None if d_weight is None else d_weight.to(weight.dtype),
        None if d_bias is None or bias is None else d_bias.to(bias.dtype),
    )


full_reference = CustomLoss(
    "reference_full",
    FullCall,
    _forward,
    _backward,
    _empty_outputs,
    shown=3,
    differentiable=2,
    kept=("base", "total", "share"),
)
