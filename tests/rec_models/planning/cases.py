"""Settings and sizes that the tests of predictions share."""

from typing import Any

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.planning import Setup, Sizes

LOOP = ("optimizer", "accumulate", "averaging", "cuda_graphs", "devices", "table")
SIZES = Sizes(items=100_000, rows=64, tokens=3000, most_tokens=3500, targets_share=1.0, mean_length=47, steps=100)


def setup_of(loss: str = "cce_neg", *, model: dict[str, Any] | None = None, **options: Any) -> Setup:
    """Settings of a step; options are those of the training loop, and all others those of the loss."""
    of_loop = {name: options.pop(name) for name in LOOP if name in options}
    settings = LossSettings.pick(loss, **{"num_negatives": 512, "sharing": "tile", **options})
    return Setup(ModelSettings(**(model or {})), settings, TrainingSettings(**of_loop))
