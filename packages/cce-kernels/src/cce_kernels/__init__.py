"""Exact full and sampled cut cross-entropy: the softmax over a catalogue without its logits."""

from cce_kernels.full_api import linear_cross_entropy
from cce_kernels.modules import LinearCrossEntropy, SampledLinearCrossEntropy
from cce_kernels.sampled.draws import draw_negatives
from cce_kernels.sampled.objectives import BCE, GBCE, Softmax
from cce_kernels.sampled.samplers import InBatch, Mixed, Popularity, Uniform
from cce_kernels.sampled_api import sampled_linear_cross_entropy
from cce_kernels.shard import Shard

__all__ = [
    "BCE",
    "GBCE",
    "InBatch",
    "LinearCrossEntropy",
    "Mixed",
    "Popularity",
    "SampledLinearCrossEntropy",
    "Shard",
    "Softmax",
    "Uniform",
    "draw_negatives",
    "linear_cross_entropy",
    "sampled_linear_cross_entropy",
]
