"""Every loss can be driven to nearly zero on one batch."""

from statistics import mean

import pytest
import torch

from rec_models.config import LOSSES, LossSettings, ModelSettings
from rec_models.encoders import build_encoder
from rec_models.losses import LossContext, build_loss
from rec_models.training.batch import prepare

# The most steps. A sampled loss needs more, because a negative that is not drawn is not pushed down; a pointwise loss
# needs more still, because each of its terms has to become 0.
STEPS = {"ce": 150, "cce": 150, "sce": 150, "ce_neg": 300, "cce_neg": 300, "bce_neg": 500, "gbce": 600, "bce": 800}


CASES = [(loss, "sasrec", "uniform") for loss in LOSSES]
CASES += [("cce", "bert4rec", "uniform"), ("cce_neg", "bert4rec", "uniform"), ("cce_neg", "sasrec", "mixed")]


@pytest.mark.parametrize(("loss", "model", "sampling"), CASES)
def test_every_loss_overfits_one_batch(tiny, model, loss, sampling):
    torch.manual_seed(0)
    settings = ModelSettings(model=model, hidden=32, blocks=1, max_seq_len=10, dropout=0.0)
    encoder = build_encoder(settings, tiny.ITEMS)
    options = {"num_negatives": 16, "sharing": "none", "sampling": sampling, "sce_bucket_size_y": 16}
    function = build_loss(LossSettings.pick(loss, **options))
    step = prepare(tiny.TinyBatches(model=model, rows=4).batch(0, 0))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2, fused=True)
    losses = []
    while len(losses) < STEPS[loss] and (len(losses) < 10 or mean(losses[-10:]) > 0.02):
        hidden = encoder(step.items, step.layout, step.masked)
        tokens = hidden if step.rows is None else hidden[step.rows]
        value = function(tokens, encoder.item_table, step.targets, LossContext(seed=1, step=len(losses)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > 0.5
    assert mean(losses[-10:]) <= 0.02
