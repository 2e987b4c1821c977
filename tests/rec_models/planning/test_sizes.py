"""The sizes of batches from the lengths of histories."""

import numpy as np
import pytest

from rec_models.config import BatchSettings, ModelSettings
from rec_models.planning import Sizes
from rec_models.planning.sizes import filled
from tests.rec_models.planning.cases import setup_of


def test_the_largest_batch_is_near_the_largest_of_many():
    random = np.random.default_rng(0)
    lengths = np.minimum(np.maximum(1, random.lognormal(3, 0.8, 20_000) - 1), 100).astype(np.int64)
    sizes = Sizes.of(ModelSettings(), BatchSettings(batch_size=128), lengths, items=1000, examples=len(lengths))
    batches = random.permuted(np.tile(lengths, 128)).reshape(-1, 128)[: sizes.steps].sum(1)
    assert sizes.steps == 157
    assert sizes.tokens == pytest.approx(batches.mean(), rel=0.02)
    assert sizes.most_tokens == pytest.approx(batches.max(), rel=0.05)


def test_a_masked_model_has_fewer_targets_and_a_small_log_smaller_batches():
    model = ModelSettings(model="bert4rec", mask_prob=0.2)
    sizes = Sizes.of(model, BatchSettings(batch_size=4), np.array([5, 10]), items=10, examples=2)
    assert (sizes.tokens, sizes.targets_share, sizes.rows, sizes.steps) == (15, 0.2, 2, 1)


def test_recorded_batches_are_filled_up():
    assert [filled(setup_of(), count) for count in (0.2, 16, 17.4, 500.0)] == [16, 16, 32, 512]
    assert filled(setup_of(cuda_graphs=False), 17.4) == 17.4
