"""Every loss can be driven to nearly nothing on one batch, with both models."""

import pytest
import torch

from rec_models.backbones import build_encoder
from rec_models.losses import LossContext, build_loss
from rec_models.settings import LOSSES, LossSettings, ModelSettings
from rec_models.step_batch import prepare

CASES = [("sasrec", loss) for loss in LOSSES] + [("bert4rec", "cce"), ("bert4rec", "cce_neg")]
# Steps, learning rate, and the share of the first loss that is left: few negatives a step teach slowly, since one that
# is not drawn is not pushed down, and a pointwise loss has a term for each.
SLOWER = {"bce": (120, 2e-2, 0.2), "bce_neg": (90, 2e-2, 0.1), "gbce": (110, 2e-2, 0.1)}


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_every_loss_overfits_one_batch(tiny, model, loss):
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(model=model, hidden=32, blocks=1, max_seq_len=10, dropout=0.0), tiny.ITEMS)
    sharing = "none" if loss in SLOWER else "tile"
    function = build_loss(LossSettings.pick(loss, num_negatives=16, sharing=sharing, sce_bucket_size_y=16))
    step = prepare(tiny.TinyBatches(model=model, rows=4).batch(0, 0))
    steps, rate, share = SLOWER.get(loss, (60, 1e-2, 0.05))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=rate, fused=True)
    losses = []
    for number in range(steps):
        hidden = encoder.encode_packed(step.items, step.layout, step.masked)
        tokens = hidden if step.rows is None else hidden[step.rows]
        value = function(tokens, encoder.item_table, step.targets, LossContext(seed=1, step=number))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-10:]) / 10 < share * losses[0]
