"""The exact loss: checks, autocast, shapes and reduction around its implementations."""

from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from cce_kernels import validation
from cce_kernels.autograd import refuse_transforms
from cce_kernels.checks import plain_flag, plain_integer
from cce_kernels.dtypes import product_dtype, without_autocast
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.compose import compose, first_targets
from cce_kernels.full.reference import full_reference
from cce_kernels.inputs import num_items_of, prepared, uses_triton
from cce_kernels.shard import Shard
from cce_kernels.validation import Impl, Reduction


class _Options(TypedDict, total=False):
    """Options that do not change what it returns (for the overloads)."""

    bias: Tensor | None
    ignore_index: int
    softcap: float | None
    temperature: float
    label_smoothing: float
    token_weights: Tensor | None
    item_weights: Tensor | None
    reduction: Reduction
    filter_eps: float | None
    check: bool
    impl: Impl
    shard: Shard | None


@overload
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *,
    return_lse: Literal[False] = ..., return_predicted: Literal[False] = ..., **options: Unpack[_Options],
) -> Tensor: ...  # fmt: skip
@overload
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *,
    return_lse: Literal[True], return_predicted: Literal[False] = ..., **options: Unpack[_Options],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *,
    return_lse: Literal[False] = ..., return_predicted: Literal[True], **options: Unpack[_Options],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *,
    return_lse: Literal[True], return_predicted: Literal[True], **options: Unpack[_Options],
) -> tuple[Tensor, Tensor, Tensor]: ...  # fmt: skip
@overload
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *,
    return_lse: bool, return_predicted: bool = ..., **options: Unpack[_Options],
) -> Tensor | tuple[Tensor, ...]: ...  # fmt: skip
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = validation.DEFAULT_IGNORE_INDEX,
    softcap: float | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    token_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    filter_eps: float | None = None,
    return_lse: bool = False,
    return_predicted: bool = False,
    check: bool = False,
    impl: Impl = "auto",
    shard: Shard | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Exact cross-entropy over the catalogue, `logsumexp_j s_mj - s_mt`, without the logits.

    Args:
        hidden: [..., D], fp32, bf16 or fp16 (float64 with the reference). Under autocast fp32 becomes its dtype.
        weight: [V, D], in its own dtype. Products are made of rows rounded to hidden's dtype (a narrower row is widened
            instead), so with bf16 hidden an fp16 table loses digits, and with fp16 hidden a bf16 one loses what is
            below 6e-8 and is infinite above 65,504. The gradient is summed in fp32 and returned in weight's dtype.
        targets: int64 [...], or [..., K] for several targets per token (a basket): the loss is then that of a target
            distribution spread evenly over those that are not `ignore_index`, `logsumexp_j s_mj - mean_k s_mk`; it
            gathers M K rows. A target outside [0, V) that is not `ignore_index` makes its token's loss NaN.
        bias: [V] or None, added to the scores.
        ignore_index: target of tokens that do not count.
        softcap: scores become `softcap * tanh(s / softcap)`.
        temperature: the softmax is that of scores divided by it, bias and cap included.
        label_smoothing: a in [0, 1), as in torch's `cross_entropy`: the loss is that of a target distribution with `a`
            spread evenly over the catalogue. Neither this nor several targets go together with `softcap`.
        token_weights: [...] or None: the loss of each token is multiplied by its weight.
        item_weights: [V] or None: the loss of each token is multiplied by the weight of its target, as with `weight` of
            torch's `cross_entropy` (which weighs the smoothed part of a loss by all items instead). Not with several
            targets.
        reduction: `mean` is over the tokens that count, 0 if there are none. With weights it divides by their sum.
        filter_eps: skip tiles whose probabilities are all below this (approximate; triton only). None is exact.
        return_lse: also return the log-sum-exp of each token. It may be differentiated like the loss: a z-loss is
            `1e-4 * lse.square().mean()`. Without a gradient through it nothing more is computed, but there are no
            chunks then (see `impl`).
        return_predicted: also return the item of the highest score of each token, the lowest id among equals; compared
            with `targets` it tells the hits at 1 while training. It takes one maximum per score in forward.
        check: check the values too: one synchronization, and a break in torch.compile's graph.
        impl: `auto` is triton on a GPU of compute capability 8.0 or above and the reference elsewhere. There, in bf16,
            without bias and softcap and outside a graph of torch.compile, it takes torch's products where they are
            faster. Up to 2^24 pairs of a token and an item it stores their scores (64 MiB). Above D 320, from 2,048
            tokens and 65,536 items on, or 2^28 pairs and 15,000 items, a mean or sum with a gradient for weight,
            without `return_lse` and `return_predicted`, goes by chunks of tokens: they take 512 MiB, or 2 KiB per item
            where that is more, and from forward to backward another V D numbers in fp32. `triton` does neither. Triton
            takes D up to 512, in fp32 up to 256: with wider fp32 vectors `auto` is the reference, which is faster
            there. The reference's products in fp32 follow `torch.set_float32_matmul_precision`; the kernels' are never
            plain TF32.
        shard: the table is spread over the processes of a group. Then weight is [shard.rows.number, D] and bias
            [shard.rows.number], those of this process; hidden and targets are the tokens of this process, as many in
            each (fill up with `ignore_index`); targets are ids of the whole catalogue. Every process must make the same
            calls, and backward too. `sum` and `mean` are over the tokens of all processes, the same number in each,
            whose gradient must be the same in each. token_weights are of the tokens of this process, item_weights [V]
            of the whole catalogue. `return_lse` then returns a value: no gradient flows through it. Not with
            `label_smoothing`, several targets or `return_predicted`.

    Returns:
        The loss in fp32 (float64 for float64 inputs): a scalar, or [...] with reduction `none`. With `return_lse` then
        the log-sum-exp [...], 0 at ignored tokens, and with `return_predicted` at last items int64 [...], at ignored
        tokens too.

    Raises:
        ValueError: a shape, dtype, device or option is wrong; the message names the argument.
        RuntimeError: the gradient is differentiated again, after `create_graph=True`: it has no derivative. Or a
            transform of `torch.func` is applied.
    """
    refuse_transforms()
    ignore_index = plain_integer(ignore_index)
    return_lse, check = plain_flag("return_lse", return_lse), plain_flag("check", check)
    return_predicted = plain_flag("return_predicted", return_predicted)
    sets = targets if validation.are_sets(hidden, targets) else None
    targets = targets if sets is None else sets[..., 0]
    validation.check_common(hidden, weight, targets, bias, reduction, impl, ignore_index, shard)
    validation.check_full(softcap, filter_eps, temperature, label_smoothing)
    weighted = validation.check_weights(hidden, num_items_of(weight, shard), token_weights, item_weights)
    if shard is not None:
        validation.check_unsharded(label_smoothing=label_smoothing, sets=sets, return_predicted=return_predicted)
    if sets is not None:
        validation.check_sets(softcap, item_weights)
        sets = sets.reshape(-1, sets.shape[-1])
        targets = first_targets(sets, ignore_index, weight.shape[0]).view(targets.shape)
    if check:
        validation.check_values(hidden, weight, targets, bias, ignore_index, shard, token_weights, item_weights)
    dtype = product_dtype(hidden)
    widest = tuning.widest(dtype)
    if impl == "auto" and dtype == torch.float32 and hidden.shape[-1] > widest:
        impl = "reference"
    use_triton = uses_triton(impl, hidden, weight, bias, widest)
    if filter_eps is not None and not use_triton:
        raise ValueError(f"filter_eps: found {filter_eps!r}, allowed: with impl='triton' only, the reference is exact")
    h, w, b, t = prepared(hidden, weight, bias, targets, dtype, use_triton)
    composed = sets is not None or bool(label_smoothing) or weighted
    within = "none" if composed else reduction
    with without_autocast(hidden.device.type):
        if shard is not None:
            from cce_kernels.sharded import api as sharded  # imports torch's compiler, which takes seconds

            loss, lse = sharded.full(
                shard, h, w, b, t, within, ignore_index, softcap, temperature, filter_eps, use_triton
            )
            if weighted:
                loss = sharded.weighted(shard, loss, t, ignore_index, reduction, token_weights, item_weights)
            loss = loss.view(targets.shape) if reduction == "none" else loss
            return (loss, lse.view(targets.shape)) if return_lse else loss
        with_dhidden = torch.is_grad_enabled() and h.requires_grad
        call = FullCall(h, w, b, t, ignore_index, softcap, temperature, filter_eps, with_dhidden, return_predicted)
        run = full_reference
        if use_triton and impl == "auto" and tuning.is_small(call):
            from cce_kernels.full.small_impl import full_small as run
        elif use_triton and impl == "auto" and within != "none" and not return_lse and tuning.is_chunked(call):
            from cce_kernels.full.chunked_impl import full_chunked as run
        elif use_triton and h.shape[0] > 0:
            from cce_kernels.full.triton_impl import full_triton as run
        loss, lse, predicted = run(call, within)
        if composed:
            loss = compose(loss, lse, call, reduction, sets, label_smoothing, token_weights, item_weights)
    loss = loss.view(targets.shape) if reduction == "none" else loss
    others = [lse] * return_lse + [predicted] * return_predicted
    return (loss, *(x.view(targets.shape) for x in others)) if others else loss
