"""When an item table is sharded, and that a part of it has the weights of the whole."""

import pytest
import torch

from cce_kernels.shard import Rows
from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.transformer import draw_rows
from rec_models.errors import SettingsError
from rec_models.training import shards
from rec_models.training.memory import Run

CPU = torch.device("cpu")


class TwoRanks:
    world_size = 2

    def agree(self, numbers):
        return (tuple(numbers), tuple(2 * number for number in numbers))  # the other one has twice as many


@pytest.fixture
def decide(tiny, monkeypatch):
    """Whether the table of so many items is sharded; the first batches have 25 and 50 targets."""
    monkeypatch.setattr(shards, "Shard", lambda group, num_items: ("shard", num_items))
    monkeypatch.setattr(shards, "_first_targets", lambda batches: 25)

    def run(items, loss="cce_neg", table="auto", **training):
        options = {"num_negatives": 3} if loss == "cce_neg" else {}
        training = TrainingSettings(devices=2, table=table, **training)
        settings = Run(ModelSettings(), LossSettings.pick(loss, **options), training, items)
        return shards.shard_of(settings, tiny.TinyBatches(), TwoRanks(), CPU) is not None

    return run


def test_auto_shards_a_table_that_is_large_beside_a_batch(decide, monkeypatch):
    assert [decide(items) for items in (200, 201)] == [False, True]  # (2 + 2) * 50
    assert not decide(201, table="replicated")
    assert decide(100, table="sharded")
    assert not decide(10_000, loss="ce")
    assert not decide(10_000, precision="16-mixed")
    monkeypatch.setattr(shards, "_too_large", lambda run, device: True)
    assert decide(100)


def test_a_device_without_an_item_is_refused(decide):
    assert not decide(30)
    with pytest.raises(
        SettingsError, match="table: found 'sharded' with devices=2 and num_items=30, allowed: replicated"
    ):
        decide(30, table="sharded")


@pytest.mark.parametrize("initialization", ["normal", "xavier"])
@pytest.mark.parametrize("items", [64, 200, 263])
def test_a_part_has_the_weights_of_the_whole(items, initialization, monkeypatch):
    monkeypatch.setattr("rec_models.encoders.transformer._DRAWN_ROWS", 64)  # the whole in parts, the last one short
    settings = ModelSettings(hidden=6, heads=2, max_seq_len=5, initialization=initialization)
    torch.manual_seed(3)
    whole = build_encoder(settings, items).state_dict()
    for rank in range(3):
        rows = Rows(items, 3, rank)
        torch.manual_seed(3)
        part = build_encoder(settings, items, rows).state_dict()
        assert torch.equal(part.pop("item_table"), rows.of(whole["item_table"]))
        assert all(torch.equal(part[name], whole[name]) for name in part)


def test_rows_on_no_device_are_not_drawn():
    draw_rows(torch.empty(10, 4, device="meta"), ModelSettings(hidden=4), Rows(30, 3, 0))
