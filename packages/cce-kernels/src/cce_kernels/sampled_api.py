"""The sampled losses: checks, autocast, shapes and reduction around their implementations."""

from typing import Literal, Required, TypedDict, Unpack, overload

from torch import Tensor

from cce_kernels import validation
from cce_kernels.autograd import refuse_transforms
from cce_kernels.checks import plain_flag, plain_integer
from cce_kernels.dtypes import product_dtype, without_autocast
from cce_kernels.hardware import MAX_TRITON_DIM
from cce_kernels.inputs import num_items_of, prepared, uses_triton
from cce_kernels.reduction import reduce_weighted
from cce_kernels.sampled.call import sampled_call
from cce_kernels.sampled.draws import groups_of
from cce_kernels.sampled.objectives import Objective, Softmax
from cce_kernels.sampled.reference import sampled_reference, sparse_reference_backward
from cce_kernels.sampled.samplers import Sampler, Uniform
from cce_kernels.sampled.validation import (
    DEFAULT_TILE_TOKENS,
    Sharing,
    check_objective,
    check_one_target,
    check_sampling,
)
from cce_kernels.shard import Shard
from cce_kernels.validation import Impl, Reduction


class _Options(TypedDict, total=False):
    """Options that do not change what it returns (for the overloads)."""

    num_negatives: Required[int]
    seed: Required[Tensor | int]
    step: Tensor | int
    row_offset: Tensor | int
    sampler: Sampler
    objective: Objective
    sharing: Sharing
    tile_tokens: int
    bias: Tensor | None
    ignore_index: int
    token_weights: Tensor | None
    item_weights: Tensor | None
    reduction: Reduction
    deterministic: bool
    sparse_grad: bool
    check: bool
    impl: Impl
    shard: Shard | None


@overload
def sampled_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, return_lse: Literal[False] = ...,
    **options: Unpack[_Options],
) -> Tensor: ...  # fmt: skip
@overload
def sampled_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, return_lse: Literal[True], **options: Unpack[_Options]
) -> tuple[Tensor, Tensor]: ...
@overload
def sampled_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, return_lse: bool, **options: Unpack[_Options]
) -> Tensor | tuple[Tensor, Tensor]: ...
def sampled_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    num_negatives: int,
    seed: Tensor | int,
    step: Tensor | int = 0,
    row_offset: Tensor | int = 0,
    sampler: Sampler = Uniform(),  # noqa: B008 - frozen, without state
    objective: Objective = Softmax(),  # noqa: B008 - frozen, without state
    sharing: Sharing = "none",
    tile_tokens: int = DEFAULT_TILE_TOKENS,
    bias: Tensor | None = None,
    ignore_index: int = validation.DEFAULT_IGNORE_INDEX,
    token_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    deterministic: bool = False,
    sparse_grad: bool = False,
    return_lse: bool = False,
    check: bool = False,
    impl: Impl = "auto",
    shard: Shard | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy against N sampled negatives per token, drawn inside the kernel and again in backward.

    A negative that equals the target is removed. `draw_negatives` shows the ids.

    Three options of the full loss have no counterpart here. Several targets per token would have to be removed from the
    draws of their token one by one, which the kernels do for one target: for a basket of K repeat the token K times,
    with `token_weights` of 1 / K. `label_smoothing` a has a gradient in every row of the table, which sampling avoids;
    from losses and `lse` of tokens it is `(1 - a) * loss + a * (lse - hidden @ weight.mean(0))`. And the best of N
    draws is not the predicted item.

    Args:
        hidden: [..., D], fp32, bf16 or fp16 (float64 with the reference). Under autocast fp32 becomes its dtype.
        weight: [V, D], in its own dtype. Products are made of rows rounded to hidden's dtype (a narrower row is widened
            instead), so with bf16 hidden an fp16 table loses digits, and with fp16 hidden a bf16 one loses what is
            below 6e-8 and is infinite above 65,504. The gradient is summed in fp32 and returned in weight's dtype.
        targets: int64 [...], one per token. A target outside [0, V) that is not `ignore_index` makes its token's loss
            NaN.
        num_negatives: N >= 1, drawn with replacement. numpy's integers are accepted here and below.
        seed: int in [0, 2**63), or an int64 tensor of one element on hidden's device.
        step: int in [0, 2**32), or a tensor like `seed` (taken modulo 2**32). Equal (seed, step, row, slot) draw equal
            ids.
        row_offset: row number of the first token (ignored tokens count), an int or a tensor like `seed`: ranks and
            micro-batches that number their rows consecutively draw what one big batch would. `InBatch` and `Mixed` draw
            among this call's targets, or among those of their `pool`. A CUDA graph replays the int that it was recorded
            with.
        sampler: `Uniform()`, `Popularity(counts, alpha, logq)`, `InBatch(logq)` or `Mixed(others, share, logq)`.
        objective: `Softmax(temperature)`, `BCE()` or `GBCE(t)`.
        sharing: `none` (each token its own negatives), `tile` (rows [k T, (k + 1) T) share, T = `tile_tokens`) or
            `batch` (all rows of a step share).
        tile_tokens: T; changes results.
        bias: [V] or None, added to the scores.
        ignore_index: target of tokens that do not count.
        token_weights: [...] or None: the loss of each token is multiplied by its weight.
        item_weights: [V] or None: the loss of each token is multiplied by the weight of its target. Negatives have no
            weight: the sampler decides how often they come.
        reduction: `mean` is over the tokens that count, 0 if there are none. With weights it divides by their sum.
        deterministic: bitwise equal gradients from run to run, with either implementation.
        sparse_grad: weight's gradient (and bias's) holds only the rows touched, as a sparse tensor for
            `torch.optim.SparseAdam` or `SGD`, both without weight decay: torch refuses decay on a sparse gradient. Give
            a leaf, such as an `nn.Parameter`: torch cannot take a sparse gradient back through a slice or a cast. It
            breaks torch.compile's graph.
        return_lse: also return the log-sum-exp of each token over its target and its corrected negatives,
            `log(e^{s_t} + sum_n e^{s'_n})`, for `Softmax` only. It may be differentiated like the loss, for a z-loss;
            without a gradient through it nothing more is computed. The sum is an estimate of the catalogue's, so its
            logarithm is lower in expectation, the more so the fewer negatives there are.
        check: check the values too: one synchronization, and a break in torch.compile's graph.
        impl: `auto` is triton on a GPU of compute capability 8.0 or above and the reference elsewhere. Triton takes D
            up to 512.
        shard: as in `linear_cross_entropy`; `row_offset` is that of this process's first token, and `InBatch` and
            `Mixed` draw among the targets of all processes. Without `sparse_grad` and `return_lse`.

    Returns:
        The loss in fp32 (float64 for float64 inputs): a scalar, or [...] with reduction `none`. With `return_lse` also
        the log-sum-exp [...], 0 at ignored tokens.

    Raises:
        ValueError: a shape, dtype, device or option is wrong; the message names the argument.
        RuntimeError: the gradient is differentiated again, after `create_graph=True`: it has no derivative. Or a
            transform of `torch.func` is applied.
    """
    refuse_transforms()
    num_negatives, seed, step, row_offset, tile_tokens, ignore_index = map(
        plain_integer, (num_negatives, seed, step, row_offset, tile_tokens, ignore_index)
    )
    deterministic, sparse_grad = plain_flag("deterministic", deterministic), plain_flag("sparse_grad", sparse_grad)
    return_lse, check = plain_flag("return_lse", return_lse), plain_flag("check", check)
    check_one_target(hidden, targets)
    validation.check_common(hidden, weight, targets, bias, reduction, impl, ignore_index, shard)
    num_items = num_items_of(weight, shard)
    weighted = validation.check_weights(hidden, num_items, token_weights, item_weights)
    check_sampling(
        num_items, targets.numel(), num_negatives, seed, step, row_offset, sampler, sharing, tile_tokens, hidden.device
    )
    check_objective(objective, sampler, return_lse=return_lse)
    if shard is not None:
        validation.check_unsharded(sparse_grad=sparse_grad, return_lse=return_lse)
    if check:
        validation.check_values(hidden, weight, targets, bias, ignore_index, shard, token_weights, item_weights)
    use_triton = uses_triton(impl, hidden, weight, bias, MAX_TRITON_DIM)
    h, w, b, t = prepared(hidden, weight, bias, targets, product_dtype(hidden), use_triton)
    within = "none" if weighted else reduction
    with without_autocast(hidden.device.type):
        if shard is not None:
            from cce_kernels.sharded import api as sharded
            from cce_kernels.sharded.sampled import SampledOptions

            options = SampledOptions(
                sampler, objective, seed, step, row_offset, num_negatives, sharing, tile_tokens, deterministic,
                use_triton,
            )  # fmt: skip
            loss = sharded.sampled(shard, h, w, b, t, within, ignore_index, options)
            if weighted:
                loss = sharded.weighted(shard, loss, t, ignore_index, reduction, token_weights, item_weights)
            return loss.view(targets.shape) if reduction == "none" else loss
        call = sampled_call(
            h, w, b, t, sampler, objective, seed, step, num_negatives=num_negatives, ignore_index=ignore_index,
            groups=groups_of(h.shape[0], sharing, tile_tokens, row_offset), deterministic=deterministic,
            row_offset=row_offset.reshape(()) if isinstance(row_offset, Tensor) and sharing != "batch" else None,
            with_lse=return_lse,
        )  # fmt: skip
        run, sparse_backward = sampled_reference, sparse_reference_backward
        if use_triton and h.shape[0] > 0:
            from cce_kernels.sampled.triton_impl import sampled_triton as run
            from cce_kernels.sampled.triton_impl import sparse_backward
        loss, lse = run(call, within, eager_backward=sparse_backward if sparse_grad else None)
        if weighted:
            loss = reduce_weighted(loss, t, ignore_index, reduction, token_weights, item_weights)
    loss = loss.view(targets.shape) if reduction == "none" else loss
    return (loss, lse.view(targets.shape)) if return_lse else loss
