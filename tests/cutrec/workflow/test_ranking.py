"""Validation and test rank by the same batches: every user once, with their own seen items, in the right precision."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cutrec.config_point import Config
from cutrec.workflow import ranking
from cutrec.workflow import training_inputs as inputs
from rec_data.sequences.store import SequenceStore, write_store
from rec_eval import rank_metrics, target_ranks, top_k
from rec_eval.config import Evaluate
from rec_models.config import ModelSettings
from rec_models.encoders import Encoder, build_encoder

HISTORIES = [[0, 1], [2], [3, 4, 5, 6], [1, 1], [6, 0, 2]]
TARGETS = [2, 0, 1, 5, 3]


@pytest.fixture
def store(tmp_path: Path) -> SequenceStore:
    write_store(
        tmp_path / "test.arrow",
        items=np.array([item for history in HISTORIES for item in history], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, HISTORIES)]).astype(np.int64),
        user_ids=np.arange(len(HISTORIES), dtype=np.int32),
        targets=np.array(TARGETS, dtype=np.int32),
    )
    return SequenceStore.open(tmp_path / "test.arrow")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    settings = ModelSettings(model="sasrec", max_seq_len=3, blocks=1, heads=1, hidden=16, dropout=0.0)
    return build_encoder(settings, 7).eval()


def batches(encoder: Encoder, store: SequenceStore, *, filter_seen: bool) -> list[ranking.UserBatch]:
    return list(ranking.user_batches(encoder, store, batch_users=2, filter_seen=filter_seen, title="test"))


def test_every_user_comes_once_with_their_own_seen_items(encoder: Encoder, store: SequenceStore):
    found = batches(encoder, store, filter_seen=True)
    assert [(batch.start, batch.end, len(batch.queries)) for batch in found] == [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    seen = [
        batch.seen_items[low:high].tolist()
        for batch in found
        for low, high in zip(batch.seen_offsets[:-1], batch.seen_offsets[1:], strict=True)
    ]
    assert seen == HISTORIES  # whole histories, also what lies before max_seq_len
    whole = encoder.encode_last(*packed([history[-3:] for history in HISTORIES]))
    assert torch.allclose(torch.cat([batch.queries for batch in found]), whole, atol=1e-6)


def packed(histories: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.tensor([item for history in histories for item in history])
    return items, torch.tensor([0, *map(len, histories)]).cumsum(0)


def test_nothing_is_seen_where_seen_items_stay(encoder: Encoder, store: SequenceStore):
    assert all(
        batch.seen_offsets is None and batch.seen_items is None for batch in batches(encoder, store, filter_seen=False)
    )


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float32), (8, torch.bfloat16)])
def test_scores_are_of_bf16_products_on_a_gpu_that_has_it(major: int, dtype: torch.dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    assert ranking.scoring_dtype(torch.device("cuda", 0)) == dtype


def test_scores_are_fp32_on_a_cpu(encoder: Encoder, store: SequenceStore):
    first = batches(encoder, store, filter_seen=True)[0]
    assert first.queries.dtype == first.items.items.dtype == torch.float32
    assert first.items.items.data_ptr() == encoder.item_table.data_ptr()  # no copy where none is needed
    assert not first.queries.requires_grad
    assert not first.items.items.requires_grad


@pytest.mark.gpu
def test_the_fused_path_takes_what_a_gpu_gets(encoder: Encoder, store: SequenceStore):
    for batch in batches(encoder.cuda(), store, filter_seen=True):
        seen = {"seen_offsets": batch.seen_offsets, "seen_items": batch.seen_items}
        fused = top_k(batch.queries, batch.items, 7, impl="triton", **seen)
        plain = top_k(batch.queries, batch.items, 7, impl="reference", **seen)
        assert torch.equal(fused.ids, plain.ids)


@pytest.mark.parametrize("filter_seen", [True, False])
def test_validation_is_the_ndcg_of_one_pass_over_all_users(encoder: Encoder, store: SequenceStore, filter_seen: bool):
    point = dataclasses.replace(Config(), evaluate=Evaluate(batch_users=2, filter_seen=filter_seen))
    whole = encoder.encode_last(*packed([history[-3:] for history in HISTORIES]))
    seen = {"seen_offsets": store.offsets, "seen_items": store.items} if filter_seen else {}
    ranks = target_ranks(whole, encoder.item_table, torch.tensor(TARGETS), **seen)
    expected = rank_metrics(ranks, [10])["ndcg@10"]
    found = inputs.make_validation(point, store)(encoder)
    assert found["ndcg@10"] == pytest.approx(expected)
    assert set(found) == {f"{metric}@{k}" for metric in ("ndcg", "hitrate", "mrr") for k in (1, 5, 10, 20, 100)}
    assert 0 < expected < 1
