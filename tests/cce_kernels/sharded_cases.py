"""Calls of both losses over a sharded table, and the same calls over the whole one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cce_kernels import (
    BCE,
    GBCE,
    InBatch,
    Mixed,
    Popularity,
    Softmax,
    Uniform,
    linear_cross_entropy,
    sampled_linear_cross_entropy,
)
from cce_kernels.shard import Rows
from cce_kernels.sharded.full import ShardedFull
from cce_kernels.sharded.merge import Partial
from cce_kernels.sharded.sampled import SampledOptions, ShardedSampled

DIM, TILE = 16, 8
TOKENS = {1: [22], 2: [9, 13], 3: [5, 13, 4]}  # of each process: tiles straddle two of them
FILLED = 13  # all are filled up to


@dataclass(frozen=True)
class Case:
    """`sampler` None: the full loss."""

    sampler: str | None = None
    objective: str = "softmax"
    sharing: str = "tile"
    bias: bool = False
    softcap: float | None = None
    temperature: float = 1.0
    weighted: bool = False
    ignore_index: int = -100
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    weight_dtype: torch.dtype | None = None
    deterministic: bool = False
    items: int = 203
    negatives: int = 37

    def __str__(self) -> str:
        parts = [str(self.sampler or "full"), self.objective, self.sharing] if self.sampler else ["full"]
        parts += [self.reduction] + ["bias"] * self.bias + ["cap"] * (self.softcap is not None)
        parts += ["cool"] * (self.temperature != 1) + ["weighted"] * self.weighted
        parts += ["ignore0"] * (self.ignore_index == 0) + ["deterministic"] * self.deterministic
        parts += [] if self.items == 203 else [f"V{self.items}"]
        return "-".join([*parts, str(self.dtype)[6:]])


CASES = [
    Case(),
    Case(bias=True, softcap=3.0, ignore_index=0, reduction="none"),
    Case(reduction="sum", bias=True, items=9),  # the third process has no row
    *(
        Case(sampler, objective, sharing, bias=sharing == "none", reduction="none" if sharing == "tile" else "mean")
        for sampler, objective in (
            ("uniform", "softmax"), ("popularity", "softmax"), ("constant", "softmax"), ("in_batch", "softmax"),
            ("uniform", "bce"), ("popularity", "gbce"), ("in_batch", "bce"),
        )
        for sharing in ("none", "tile", "batch")
    ),
    Case("in_batch", ignore_index=0, bias=True, reduction="sum", items=70),
    Case("mixed", ignore_index=0, bias=True, reduction="sum", items=70),
    Case(temperature=0.4, bias=True, softcap=3.0),
    *(Case(sampler, sharing=sharing, bias=True, temperature=0.4, reduction="none")
      for sampler, sharing in (("uniform", "none"), ("popularity", "tile"))),
]  # fmt: skip
WEIGHTED_CASES = [
    replace(case, weighted=True, reduction=reduction)
    for case in (Case(temperature=0.4), Case("popularity"), Case("uniform", "bce", "none", ignore_index=0, items=9))
    for reduction in ("none", "sum", "mean")
]


FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SMALL = {"items": 70, "negatives": 9}  # the interpreter is slow
KERNEL_CASES = [
    (Case(bias=True, softcap=3.0, ignore_index=0, reduction="none", dtype=FP32, items=70), 3),
    (Case(dtype=BF16, weight_dtype=FP32, items=70), 2),
    (Case(dtype=FP16, weight_dtype=FP32, reduction="none", items=70), 2),
    (Case(reduction="sum", bias=True, items=9, dtype=FP32), 3),
    (Case("uniform", sharing="none", reduction="none", bias=True, dtype=FP32, items=24, negatives=9), 2),
    (Case("popularity", dtype=FP32, bias=True, deterministic=True, **SMALL), 3),
    (Case("popularity", dtype=BF16, weight_dtype=FP32, reduction="none", **SMALL), 2),
    (Case("in_batch", sharing="batch", dtype=FP16, weight_dtype=FP32, ignore_index=0, **SMALL), 2),
    (Case("uniform", "gbce", dtype=FP32, reduction="none", **SMALL), 2),
    (Case(bias=True, softcap=3.0, temperature=0.4, dtype=FP32, items=70), 2),
    (Case("popularity", temperature=0.4, dtype=FP32, bias=True, **SMALL), 2),
    (Case("uniform", sharing="none", temperature=0.4, dtype=FP32, items=24, negatives=9), 2),
    (Case("uniform", "bce", sharing="none", dtype=FP32, items=24, negatives=9), 2),
]
# A product of two 16-bit numbers is exact in fp32; what is rounded is p, before its product with rows, the mean of
# rows that a process sends, and the result: at most three roundings of the largest number.
ALLOWED = {FP32: 1e-5, BF16: 3 * 2**-8, FP16: 3 * 2**-11}


def whole(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Tokens of one process, in the order of the processes that share them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = sum(TOKENS[1])
    weight, targets = normal(case.items, DIM), (torch.rand(tokens, generator=generator) ** 2 * case.items).long()
    hidden = normal(tokens, DIM) + torch.linspace(0, 1.5, tokens)[:, None] * weight[targets]  # some are fitted
    targets[2] = targets[11] = case.ignore_index
    if case.reduction == "none":
        targets[15] = case.items  # out of range
    counts = torch.randint(0, 9, (case.items,), generator=generator)
    counts[0], counts[-1] = 0, 5
    tensors = {
        "hidden": hidden.to(device, case.dtype), "weight": weight.to(device, case.weight_dtype or case.dtype),
        "bias": normal(case.items).to(device, case.weight_dtype or case.dtype) if case.bias else None,
        "grad": torch.rand(tokens, generator=generator, dtype=torch.float64).to(device, _sums(case)),
    }  # fmt: skip
    if case.weighted:
        tensors["token_weights"], tensors["item_weights"] = (
            torch.rand(size, generator=generator, dtype=torch.float64).to(device) for size in (tokens, case.items)
        )
    return {"targets": targets.to(device), "counts": counts.to(device), **tensors}


def _sums(case: Case) -> torch.dtype:
    return torch.float64 if case.dtype == torch.float64 else torch.float32


def options_of(case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    if case.sampler is None:
        return {"ignore_index": case.ignore_index, "softcap": case.softcap, "temperature": case.temperature}
    samplers = {
        "uniform": Uniform(), "popularity": Popularity(inputs["counts"], 0.7), "in_batch": InBatch(),
        "mixed": Mixed(others=Popularity(inputs["counts"], 0.7), share=0.8),
        "constant": Popularity(inputs["counts"], logq=False),
    }  # fmt: skip
    return {
        "num_negatives": case.negatives, "seed": 5, "step": 3, "sampler": samplers[case.sampler],
        "sharing": case.sharing,
        "objective": {"softmax": Softmax(case.temperature), "bce": BCE(), "gbce": GBCE(0.6)}[case.objective],
        "ignore_index": case.ignore_index, "deterministic": case.deterministic,
    } | ({"tile_tokens": TILE} if case.sharing == "tile" else {})  # fmt: skip


def call(case: Case, inputs: dict[str, Any], impl: str = "reference", **more: Any) -> list[Tensor]:
    """Loss and gradients of hidden, weight and, if there is one, bias."""
    function = linear_cross_entropy if case.sampler is None else sampled_linear_cross_entropy
    leaves = [
        x.detach().requires_grad_() for x in (inputs["hidden"], inputs["weight"], inputs["bias"]) if x is not None
    ]
    hidden, weight, *bias = leaves
    if case.weighted:
        more |= {name: inputs[name] for name in ("token_weights", "item_weights")}
    loss = function(
        hidden, weight, inputs["targets"], bias=bias[0] if bias else None, reduction=case.reduction, impl=impl,
        **options_of(case, inputs), **more,
    )  # fmt: skip
    counted = inputs["grad"] * ~loss.detach().isnan() if case.reduction == "none" else 1.5
    return [loss.detach(), *torch.autograd.grad((torch.nan_to_num(loss) * counted).sum(), leaves)]


def expected_of(case: Case, inputs: dict[str, Any]) -> list[Tensor]:
    """What `call` finds in float64, of inputs as products see them; 0 where dH is NaN."""
    exact = {name: x.double() if x is not None and x.is_floating_point() else x for name, x in inputs.items()}
    exact["weight"] = inputs["weight"].to(inputs["hidden"].dtype).double()
    loss, dhidden, *table = call(replace(case, dtype=torch.float64), exact)
    return [loss, torch.nan_to_num(dhidden), *table]


def part(case: Case, inputs: dict[str, Any], rows: Rows) -> tuple[dict[str, Any], slice]:
    """What one process has: its rows and its tokens, filled up with ignored ones; and which of all they are."""
    counts = TOKENS[rows.ranks]
    tokens = slice(sum(counts[: rows.rank]), sum(counts[: rows.rank + 1]))

    def filled(x: Tensor, value: float) -> Tensor:
        out = x.new_full((FILLED, *x.shape[1:]), value)
        out[: counts[rows.rank]] = x[tokens]
        return out

    own = {name: None if inputs[name] is None else rows.of(inputs[name]) for name in ("weight", "bias")}
    mine = {"hidden": filled(inputs["hidden"], 0.3), "targets": filled(inputs["targets"], case.ignore_index)}
    if case.weighted:
        mine |= {"token_weights": filled(inputs["token_weights"], 0.6), "item_weights": inputs["item_weights"]}
    return own | mine | {"grad": filled(inputs["grad"], 0.7), "counts": inputs["counts"]}, tokens


def compare(rows: Rows, tokens: slice, found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of the results of one process from its part of the whole, relative to the largest there.

    NaN must be in the same places.
    """
    number = tokens.stop - tokens.start
    worst = 0.0
    for place, (mine, of_all) in enumerate(zip(found, expected, strict=True)):
        if place < 2 and mine.dim() > 0:
            assert not mine[number:].any()  # nothing comes of tokens that fill up
            own, part = mine[:number], of_all[tokens]
        else:
            own, part = mine, rows.of(of_all) if place >= 2 else of_all
        assert own.shape == part.shape
        assert torch.equal(own.isnan(), part.isnan())
        apart = torch.nan_to_num(own.double() - part.double()).abs().flatten()
        worst = max([worst, *(apart / torch.nan_to_num(of_all.double()).abs().max()).tolist()])
    return worst


class Slice:
    """A `Shard` whose processes are calls one after another in this one: what they would send is known."""

    def __init__(self, rows: Rows, sent: Tensor) -> None:
        self.rows, self.sent, self.num_items = rows, sent, rows.num_items

    def gather(self, mine: Tensor) -> Tensor:
        assert torch.equal(mine, self.sent[self.rows.rank])
        return self.sent


def in_slices(
    case: Case, inputs: dict[str, Any], ranks: int, use_triton: bool
) -> list[tuple[Rows, slice, list[Tensor]]]:
    """Loss and gradients of every part of the tokens and the rows, on one device; see `call`."""
    all_rows = [Rows(case.items, ranks, rank) for rank in range(ranks)]
    parts = [part(case, inputs, rows) for rows in all_rows]
    targets = torch.stack([own["targets"] for own, _ in parts])
    options = options_of(case, inputs)
    losses: list[Any] = []
    for rows, (own, tokens) in zip(all_rows, parts, strict=True):
        if case.sampler is None:
            shard: Any = Slice(rows, targets)
            losses.append(
                ShardedFull(shard, own["targets"], case.ignore_index, case.softcap, case.temperature, None, use_triton)
            )
            continue
        offsets = torch.tensor([tokens.start for _, tokens in parts], device=targets.device)
        shard = Slice(rows, torch.cat((targets, offsets[:, None]), 1))
        known = {name: options[name] for name in ("sampler", "objective", "seed", "step", "num_negatives", "sharing")}
        sampling = SampledOptions(
            **known, row_offset=tokens.start, tile_tokens=TILE, deterministic=case.deterministic, use_triton=use_triton
        )
        losses.append(ShardedSampled(shard, own["targets"], case.ignore_index, sampling))
    hidden = torch.stack([own["hidden"] for own, _ in parts])
    calls = [loss.of_all(hidden, own["weight"], own["bias"]) for loss, (own, _) in zip(losses, parts, strict=True)]
    partial = [loss.partial(each) for loss, each in zip(losses, calls, strict=True)]
    merged = [
        loss.merge(Partial(*(torch.stack([field[rank] for field in fields]) for fields in zip(*partial, strict=True))))
        for rank, loss in enumerate(losses)
    ]
    shift, pull = (torch.stack([getattr(each, name) for each in merged]) for name in ("shift", "pull"))
    counted = (targets != case.ignore_index).sum() if case.reduction == "mean" else 1
    upstream = torch.tensor(1.5, dtype=shift.dtype, device=shift.device) / counted
    if case.reduction == "none":
        upstream = torch.stack([own["grad"] * ~each.loss.isnan() for (own, _), each in zip(parts, merged, strict=True)])
    results = []
    for rank, (rows, (_, tokens)) in enumerate(zip(all_rows, parts, strict=True)):
        d_weight, d_bias = losses[rank].weight_gradient(calls[rank], shift, pull, upstream)
        own_grad = upstream if case.reduction != "none" else upstream[rank]
        d_hidden = torch.nan_to_num(merged[rank].dhidden, 0.0) * own_grad.view(-1, 1)
        loss = merged[rank].loss
        if case.reduction != "none":
            loss = sum(each.loss.sum() for each in merged) / counted
        table = [d_weight] + ([d_bias] if case.bias else [])
        results.append((rows, tokens, [loss, d_hidden.to(case.dtype), *table]))
    return results
