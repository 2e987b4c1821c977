import math

import pytest
import torch

from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.training.averaging import UPDATES, AveragedEncoder
from rec_models.training.checkpoint import ModelCheckpoint


def moved(encoder, step):
    """Change every weight, to numbers that depend on the step."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 25), (2.5, 120), (0.01, 6), (200.0, 3)])
def test_it_is_the_mean_at_first_and_an_exponential_average_then(epochs, steps):
    encoder = build_encoder(ModelSettings(hidden=8, blocks=1, heads=1), 20)
    averaged = AveragedEncoder(encoder, epochs, steps)
    expected, taken = None, []
    for step in range(1, 80 * steps // 20 + 1):
        moved(encoder, step)
        if averaged.is_due(step):
            averaged.update(step)
            taken.append(step)
            weights = [weight.double() for weight in encoder.parameters()]
            share = max(1 / len(taken), 1 - math.exp(-taken[0] / (epochs * steps)))
            expected = weights if expected is None else [
                old + share * (new - old) for old, new in zip(expected, weights, strict=True)
            ]  # fmt: skip
    assert taken[0] <= steps
    assert taken == list(range(taken[0], 4 * steps + 1, taken[0]))
    assert taken[0] in (1, steps) or epochs * steps / taken[0] == pytest.approx(UPDATES, rel=0.05)
    for found, wanted in zip(averaged.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_an_average_never_changes_training_but_is_what_is_validated_and_kept(tiny, tmp_path, monkeypatch):
    seen = []
    update = AveragedEncoder.update

    def spying(self, step):
        update(self, step)
        seen.append([weight.clone() for weight in self._weights])

    monkeypatch.setattr(AveragedEncoder, "update", spying)
    plain, averaged = (
        tiny.run(tmp_path / name, tmp_path / f"{name}-kept", max_epochs=2, averaging=averaging)
        for name, averaging in (("plain", 0.0), ("averaged", 2.0))
    )
    losses, scores = (
        [[row[name] for row in result.history] for result in (plain, averaged)]
        for name in ("train_loss", "validation_ndcg@10")
    )
    assert losses[0] == losses[1]
    assert scores[0] != scores[1]
    assert len(seen) == 2 * 6  # every step of both epochs
    kept = ModelCheckpoint.read(tmp_path / "averaged" / "model.safetensors").weights
    for found, steps in zip(kept.values(), zip(*seen[: 6 * averaged.best_epoch], strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(steps).mean(0), rtol=0, atol=1e-6)
