"""The one registry of losses and the one of samplers: a loss is one file of this folder and one line here.

A sampled softmax can correct by log q, so it uses ``logq``; losses of cce_kernels have an ``impl``. This module imports
no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast


def load(path: str) -> Any:
    """What ``file.name`` of a registry stands for, in this folder."""
    file, _, name = path.partition(".")
    return getattr(importlib.import_module(f"{__package__}.{file}"), name)


@dataclass(frozen=True, kw_only=True)
class LossSize:
    """What the memory and the work of a loss depend on."""

    items: int  # V, the catalogue
    width: int  # D, of hidden states and of the item table
    tokens: float  # M, the targets of a batch (expected, so it may be fractional)
    negatives: int  # N per token; 0 for a loss without negatives
    groups: float  # sets of negatives: M over the tokens that share one
    options: Mapping[str, Any]  # the fields of `LossSettings`, for example ``options["sce_buckets"]``
    sharded: bool = False  # whether `items` are the rows of one device of a table that is spread over several


class LossCost(NamedTuple):
    """Bytes that a loss adds on the GPU, without the fp32 gradient of the item table, and its work."""

    forward: float  # bytes at the end of its forward pass
    backward: float  # bytes at the worst moment of its backward pass
    work: dict[str, float]  # of both passes, by the rate of `rec_models.planning.seconds.RATES` that divides it
    with_gradient: bool = True  # whether the item table's gradient already exists at that moment of the backward pass


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Everything that training, planning, reports and tables need to know about a loss.

    A function is named ``file.function``, in this folder. Its file is imported when it is used, so that reading the
    registry imports no torch.
    """

    build: str  # a `rec_models.losses.base.Builder`
    title: str  # as the paper writes it
    colour: str  # in pictures
    options: frozenset[str] = frozenset()  # the fields of `rec_models.losses.settings.LossSettings` that the loss uses
    joint: bool = False  # one loss over the tokens of all ranks, not the mean of theirs
    pointwise: bool = False  # scores an item by itself, without a softmax over several
    fixed_negatives: int | None = None  # negatives per token of a sampled loss that leaves no choice
    less_memory: str = ""  # what lowers its memory too, to be read behind "lower batch_size or max_seq_len, or"
    faithful: str | None = None  # the builder that repeats the defects of the paper's own code; None: it has none
    faithful_padding: bool = False  # whether the paper's code also trains padded places
    cost: str | None = None  # from `LossSize` to `LossCost`; None: its memory and time cannot be predicted
    faithful_cost: str | None = None  # the same for ``faithful``, if that costs something else

    def load(self, *, paper_faithful: bool = False) -> Any:
        """The builder, its file imported: `rec_models.losses.base.Builder`."""
        return load(self.faithful if paper_faithful and self.faithful else self.build)

    def load_cost(self, *, paper_faithful: bool = False) -> Callable[[LossSize], LossCost] | None:
        """The cost function, its file imported; None if there is none."""
        path = self.faithful_cost if paper_faithful and self.faithful_cost else self.cost
        return None if path is None else cast("Callable[[LossSize], LossCost]", load(path))

    @property
    def sampled(self) -> bool:
        """Whether it samples negatives."""
        return "num_negatives" in self.options

    @property
    def fused(self) -> bool:
        """Whether cce_kernels computes it, which has several implementations."""
        return "impl" in self.options


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """Everything that others need to know about a distribution of negatives."""

    build: str  # ``file.function``: settings and item counts to a `rec_models.losses.sampling.Sampler`
    options: frozenset[str] = frozenset()  # of `SAMPLER_OPTIONS`, those that it uses
    needs_counts: bool = False  # whether it needs how often training saw each item
    from_batch: bool = False  # whether it draws targets of the batch, which are those of all ranks


SAMPLER_OPTIONS = frozenset({"alpha", "catalogue_share", "logq"})
NEGATIVES = frozenset(  # of every sampled loss
    {"num_negatives", "sampling", "alpha", "catalogue_share", "sharing", "tile_tokens"}
)
SCE = frozenset({"sce_buckets", "sce_bucket_size_x", "sce_bucket_size_y", "sce_mix_x"})
_FEWER = "num_negatives"

# fmt: off
LOSSES: dict[str, LossSpec] = {
    "ce": LossSpec(build="plain.ce", title="CE", colour="#c0392b", cost="plain.ce_cost",
                   less_memory="take loss=cce, which never holds the logits of the catalogue"),
    "ce_neg": LossSpec(build="plain.ce_neg", title="CE-", colour="#e59866", options=NEGATIVES | {"logq"},
                       less_memory="num_negatives; loss=cce_neg holds no scores", cost="plain.ce_neg_cost"),
    "cce": LossSpec(build="fused.cce", title="CCE", colour="#1f5fa8", options=frozenset({"impl"}),
                    faithful_padding=True, cost="fused.cce_cost"),
    "cce_neg": LossSpec(build="fused.cce_neg", title="CCE-", colour="#5dade2", options=NEGATIVES | {"logq", "impl"},
                        less_memory=_FEWER, cost="fused.sampled_cost",
                        faithful="paper.cce_neg", faithful_cost="paper.cost"),
    "bce": LossSpec(build="fused.bce", title="BCE", colour="#7d8a2e", options=NEGATIVES | {"impl"},
                    pointwise=True, fixed_negatives=1, cost="fused.sampled_cost",
                    faithful="paper.bce", faithful_cost="paper.cost"),
    "bce_neg": LossSpec(build="fused.bce", title="BCE+", colour="#b5c334", options=NEGATIVES | {"impl"},
                        pointwise=True, less_memory=_FEWER, cost="fused.sampled_cost",
                        faithful="paper.bce", faithful_cost="paper.cost"),
    "gbce": LossSpec(build="fused.gbce", title="gBCE", colour="#16a085", options=NEGATIVES | {"impl", "gbce_t"},
                     pointwise=True, less_memory=_FEWER, cost="fused.sampled_cost"),
    "sce": LossSpec(build="sce.build", title="SCE", colour="#7d3c98", options=SCE, joint=True,
                    less_memory="the sce bucket sizes", cost="sce.cost"),
}

SAMPLERS: dict[str, SamplerSpec] = {
    "uniform": SamplerSpec(build="sampling.uniform"),
    "popularity": SamplerSpec(build="sampling.popularity", options=frozenset({"alpha", "logq"}),
                              needs_counts=True),
    "in_batch": SamplerSpec(build="sampling.in_batch", options=frozenset({"logq"}), from_batch=True),
    "mixed": SamplerSpec(build="sampling.mixed", options=frozenset({"catalogue_share", "logq"}), from_batch=True),
    "mixed_popularity": SamplerSpec(build="sampling.mixed", options=SAMPLER_OPTIONS, needs_counts=True,
                                    from_batch=True),
}
# fmt: on
