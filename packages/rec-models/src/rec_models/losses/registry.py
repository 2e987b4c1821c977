"""The one registry of losses and the one of samplers: a loss is one file of this folder and one line here.

A sampled softmax can correct by log q, so it uses ``logq``; losses of cce_kernels have an ``impl``. This module imports
no torch.
"""

from __future__ import annotations

from rec_models.losses.spec import LossSpec, SamplerSpec

NEGATIVES = frozenset({"num_negatives", "sampling", "alpha", "sharing", "tile_tokens"})
"""The options of every sampled loss."""
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
                    fixed_negatives=1, cost="fused.sampled_cost", faithful="paper.bce", faithful_cost="paper.cost"),
    "bce_neg": LossSpec(build="fused.bce", title="BCE+", colour="#b5c334", options=NEGATIVES | {"impl"},
                        less_memory=_FEWER, cost="fused.sampled_cost",
                        faithful="paper.bce", faithful_cost="paper.cost"),
    "gbce": LossSpec(build="fused.gbce", title="gBCE", colour="#16a085", options=NEGATIVES | {"impl", "gbce_t"},
                     less_memory=_FEWER, cost="fused.sampled_cost"),
    "sce": LossSpec(build="sce.build", title="SCE", colour="#7d3c98", options=SCE,
                    less_memory="the sce bucket sizes", cost="sce.cost"),
}

SAMPLERS: dict[str, SamplerSpec] = {
    "uniform": SamplerSpec(build="sampling.uniform"),
    "popularity": SamplerSpec(build="sampling.popularity", options=frozenset({"alpha", "logq"}),
                              needs_counts=True),
    "in_batch": SamplerSpec(build="sampling.in_batch", options=frozenset({"logq"})),
}
# fmt: on
