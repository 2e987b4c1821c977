"""What `rec_models.training.loop.fit` takes, of a point: its network, loss, loop, batches and validation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from cutrec import config as params
    from rec_data.sequences.batches import TrainingBatches
    from rec_data.sequences.store import SequenceStore
    from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
    from rec_models.encoders import Encoder


def keys_of_settings() -> dict[str, str]:
    """The key of params.yaml of each setting that the functions below make, by its name in `rec_models.config`."""
    from cutrec import config as params

    usual = params.Params()
    keys = {name: name for name in vars(usual)}
    for section in ("backbone", "negatives", "train"):
        keys |= {name: f"{section}.{name}" for name in vars(getattr(usual, section))}
    for loss in ("gbce", "sce"):
        keys |= {f"{loss}_{name}": f"losses.{loss}.{name}" for name in vars(getattr(usual.losses, loss))}
    return keys


def model_settings(point: params.Params) -> ModelSettings:
    """The network of the point."""
    from rec_models.config import ModelSettings

    return ModelSettings(model=point.model, max_seq_len=point.max_seq_len, **dataclasses.asdict(point.backbone))


def loss_settings(point: params.Params) -> LossSettings:
    """The loss of the point; what this loss has no use for is left out."""
    from rec_models.config import LossSettings

    sce = {f"sce_{name}": value for name, value in dataclasses.asdict(point.losses.sce).items()}
    return LossSettings.pick(
        point.loss,
        num_negatives=point.num_negatives,
        gbce_t=point.losses.gbce.t,
        impl=point.impl,
        paper_faithful=point.paper_faithful,
        **dataclasses.asdict(point.negatives),
        **sce,
    )


def training_settings(point: params.Params) -> TrainingSettings:
    """The loop of the point."""
    from rec_models.config import TrainingSettings

    loop = dataclasses.asdict(point.train)
    del loop["window"]  # of the batches
    return TrainingSettings(seed=point.seed, **loop)


def batch_settings(point: params.Params) -> BatchSettings:
    """What a batch of the point holds."""
    from rec_models.config import BatchSettings

    return BatchSettings(batch_size=point.batch_size, window=point.train.window)


def make_batches(point: params.Params, store: SequenceStore, num_items: int) -> Callable[[int, int], TrainingBatches]:
    """The training batches of each rank."""
    from rec_data.sequences.batches import TrainingBatches

    def make(rank: int, world_size: int) -> TrainingBatches:
        return TrainingBatches(
            store,
            num_items=num_items,
            task="masked_item" if point.model == "bert4rec" else "next_item",
            batch_size=point.batch_size,
            max_seq_len=point.max_seq_len,
            mask_prob=point.backbone.mask_prob,
            window=point.train.window,
            seed=point.seed,
            rank=rank,
            world_size=world_size,
        )

    return make


def make_validation(point: params.Params, store: SequenceStore) -> Callable[[Encoder], dict[str, float]]:
    """Exact ranks of the validation targets in the whole catalogue, as the test will rank."""
    import torch

    from cutrec.workflow import ranking
    from rec_eval import rank_metrics, target_ranks

    assert store.targets is not None
    targets = store.targets

    def validate(encoder: Encoder) -> dict[str, float]:
        batches = ranking.user_batches(
            encoder,
            store,
            batch_users=point.evaluate.batch_users,
            filter_seen=point.evaluate.filter_seen,
            title="validate",
        )
        ranks = [
            target_ranks(
                batch.queries,
                batch.items,
                targets[batch.start : batch.end],
                seen_offsets=batch.seen_offsets,
                seen_items=batch.seen_items,
            )
            for batch in batches
        ]
        return rank_metrics(torch.cat(ranks), [10])

    return validate


def popularity_ndcg(point: params.Params, store: SequenceStore, counts: Tensor) -> float:
    """NDCG@10 of the ranking by popularity, where `make_validation` has the model's.

    Args:
        point: for ``evaluate.filter_seen``.
        store: the validation histories and their targets.
        counts: [V] int64, how often training saw each item.
    """
    import torch

    from rec_eval import popularity_top_k, rank_metrics

    assert store.targets is not None
    seen = {"seen_offsets": store.offsets, "seen_items": store.items} if point.evaluate.filter_seen else {}
    lists = popularity_top_k(counts, 10, num_users=len(store), **seen)
    hits = lists.ids == store.targets[:, None]  # [U, 10]
    ranks = torch.where(hits.any(dim=1), hits.int().argmax(dim=1) + 1, 11)
    return rank_metrics(ranks, [10])["ndcg@10"]
