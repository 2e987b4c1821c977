"""Every loss can be driven to nearly nothing on one batch, with both models."""

import pytest
import torch

from rec_models.config import LOSSES, LossSettings, ModelSettings
from rec_models.encoders import build_encoder
from rec_models.losses import LossContext, build_loss
from rec_models.training.batch import prepare

# Steps: a sampled loss teaches slowly, because a negative that is not drawn is not pushed down; a pointwise one slower
# still, because each of its terms has to become 0, not their sum alone.
STEPS = {"ce": 150, "cce": 150, "sce": 150, "ce_neg": 300, "cce_neg": 300, "bce_neg": 500, "gbce": 600, "bce": 800}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_overfits_one_batch(tiny, model_name, loss):
    torch.manual_seed(0)
    settings = ModelSettings(model=model_name, hidden=32, blocks=1, max_seq_len=10, dropout=0.0)
    encoder = build_encoder(settings, tiny.ITEMS)
    function = build_loss(LossSettings.pick(loss, num_negatives=16, sharing="none", sce_bucket_size_y=16))
    step = prepare(tiny.TinyBatches(model=model_name, rows=4).batch(0, 0))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2, fused=True)
    losses = []
    for number in range(STEPS[loss]):
        hidden = encoder(step.items, step.layout, step.masked)
        tokens = hidden if step.rows is None else hidden[step.rows]
        value = function(tokens, encoder.item_table, step.targets, LossContext(seed=1, step=number))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > 0.5
    assert sum(losses[-10:]) / 10 < 0.02
