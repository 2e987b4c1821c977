"""What `rec_models.training.loop.fit` takes, of a point: its batches and validation."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cutrec.checksums import read_output, verified
from cutrec.config_point import Config
from cutrec.decide import Facts
from cutrec.errors import StageError
from cutrec.outputs import read_json
from cutrec.stores import read_stores, read_subset, require_subset, subset_files
from cutrec.workflow.ranking import part_of, user_batches
from rec_data import arrays
from rec_data.arrays import Mask, count_repeated
from rec_data.errors import DataError
from rec_data.ids import Ids, read_ids
from rec_data.schema import COUNT
from rec_data.sequences.batches import TrainingBatches
from rec_data.sequences.store import RUN, SequenceStore
from rec_data.sequences.subsets import StoreParts, head_of, joined
from rec_data.splits.recency import is_since
from rec_eval import popularity_top_k, rank_metrics, target_ranks
from rec_models.encoders import ENCODERS, Encoder


class SplitData(NamedTuple):
    """What training reads of a split."""

    catalogue: Ids
    train: SequenceStore | StoreParts
    validation: SequenceStore
    """Of all parts together."""
    counts: Tensor
    """[V] int64, how often each item occurs in the training histories."""
    facts: Facts
    new: Mask | None
    """[nnz] which items of the training histories are new to the model that is updated; None: of no update."""


def read_split(split: Path, sequences: str | None = None) -> SplitData:
    """Open what training reads of a split.

    Of a split in parts no training history is read: ``items.parquet`` and the heads of the parts say what is needed, so
    a process opens only the parts that it trains on. `sequences` is ``train.sequences``.

    Raises:
        StageError: a file is missing, damaged, or belongs to another split, or nobody validates.
    """
    verified(split / "items.parquet")
    for name in ("train", "validation") if sequences is None else ("validation",):
        require_subset(split, name)
    catalogue = read_output(read_ids, split / "items.parquet")
    hashes, items = {"items": catalogue.hash}, len(catalogue.names)
    train = read_subset(split, "train", hashes=hashes) if sequences is None else _behind(sequences, split, hashes)
    validation = joined(read_stores(split, "validation", hashes=hashes))
    if len(validation) == 0:
        raise StageError(f"{split}: found no validation users, allowed: at least 1 (of a larger log)")
    if isinstance(train, SequenceStore):
        counts, lengths = arrays.count(train.items.numpy(), items), train.lengths.numpy()
    else:
        counts = pq.read_table(catalogue.path, columns=[COUNT])[COUNT].to_numpy()
        lengths = np.concatenate([np.repeat(*part) for part in train.lengths])
    summary = read_json(split / "summary.json") if (split / "summary.json").is_file() else {}
    moment = summary.get("new_from")
    new = None if moment is None else is_since(verified(split / "train.parquet"), moment)
    return SplitData(catalogue, train, validation, torch.tensor(counts), Facts.of(items, lengths), new)


def _behind(sequences: str, split: Path, hashes: Mapping[str, str]) -> StoreParts:
    """The training histories behind an address, which must be of the split that validates."""
    from rec_data.sources.remote_parts import remote_parts  # half a second that others do without

    try:
        found = remote_parts(sequences, "train", hashes=hashes)
    except DataError as error:
        raise StageError(f"train.sequences: {error}") from error
    run = head_of(subset_files(split, "validation")[0]).get(RUN)
    for name, own in {**hashes, **({} if run is None else {RUN: run})}.items():
        if (other := found.heads[0].get(name)) != own:
            raise StageError(
                f"train.sequences: found {sequences} of another split than {split}, with the {name} {str(other)[:12]}, "
                f"allowed: {own[:12]}"
            )
    return found


def without_address(point: Config, train: SequenceStore | StoreParts) -> Config:
    """The point with the hash of what is behind ``train.sequences`` in its place, so that its content names the run.

    Raises:
        StageError: ``train.init_from`` beside it.
    """
    if point.train.sequences is None or isinstance(train, SequenceStore):
        return point
    if point.train.init_from is not None:
        raise StageError(f"train.sequences: found {point.train.sequences} with train.init_from, allowed: null")
    heads = repr([sorted(head.items()) for head in train.heads])
    return replace(point, train=replace(point.train, sequences=hashlib.sha256(heads.encode()).hexdigest()))


def make_batches(
    point: Config, store: SequenceStore | StoreParts, num_items: int, new: Mask | None = None
) -> Callable[[int, int], TrainingBatches]:
    """The training batches of each rank; of an update those with ``[nnz]`` new items, and a sample of the others."""

    def make(rank: int, world_size: int) -> TrainingBatches:
        return TrainingBatches(
            store,
            num_items=num_items,
            task="masked_item" if ENCODERS[point.model].masked else "next_item",
            batch_size=point.batch_size,
            max_seq_len=point.max_seq_len,
            mask_prob=point.backbone.mask_prob,
            window=point.train.window,
            seed=point.seed,
            rank=rank,
            world_size=world_size,
            new=new,
        )

    return make


VALIDATED_K = (1, 5, 10, 20, 100)
"""The k of the metrics of every epoch: those of the paper, whatever ``evaluate.k`` asks of the test."""


def make_validation(point: Config, store: SequenceStore) -> Callable[[Encoder], dict[str, float]]:
    """The metrics of `validation_ranks` at each of `VALIDATED_K`."""
    ranks, users = validation_ranks(point, store), several_targets(store)
    return lambda encoder: rank_metrics(ranks(encoder), VALIDATED_K, user_ids=users)


def several_targets(store: SequenceStore) -> Tensor | None:
    """The users [U] of the histories of a store; None if no user has several."""
    return store.user_ids if store.num_users < len(store) else None


def validation_ranks(point: Config, store: SequenceStore) -> Callable[[Encoder], Tensor]:
    """Exact ranks [U] int64 of the validation targets in the whole catalogue, as the test will rank."""
    assert store.targets is not None
    targets = store.targets
    usual = point.evaluate.batch_users
    on_gpu = users_at_once(store, usual, point.max_seq_len)

    def rank(encoder: Encoder) -> Tensor:
        users = on_gpu if encoder.item_table.device.type == "cuda" else usual
        seen = point.evaluate.filter_seen
        batches = user_batches(encoder, store, batch_users=users, filter_seen=seen, title="validate")
        part = part_of(encoder)
        ranks = [
            target_ranks(
                batch.queries,
                batch.items,
                targets[batch.start : batch.end],
                seen_offsets=batch.seen_offsets,
                seen_items=batch.seen_items,
                part=part,
            )
            for batch in batches
        ]
        return torch.cat(ranks)

    return rank


def users_at_once(store: SequenceStore, batch_users: int, max_seq_len: int) -> int:
    """Users per batch of validation on a GPU: several times `batch_users` where histories are short.

    A GPU computes a batch of short histories in less time than the host takes to launch its kernels. No batch has more
    items than one of `batch_users` histories of the full length, which bounds its memory.
    """
    read = store.lengths.numpy().clip(max=max_seq_len)
    for users in (8 * batch_users, 4 * batch_users, 2 * batch_users):
        if np.add.reduceat(read, np.arange(0, len(read), users)).max() <= batch_users * max_seq_len:
            return users
    return batch_users


def popularity_ndcg(point: Config, store: SequenceStore, counts: Tensor) -> float:
    """NDCG@10 of the ranking by the counts [V] int64 of training, where `make_validation` has the model's."""
    assert store.targets is not None
    seen = {"seen_offsets": store.offsets, "seen_items": store.items} if point.evaluate.filter_seen else {}
    lists = popularity_top_k(counts, 10, num_users=len(store), **seen)
    hits = lists.ids == store.targets[:, None]  # [U, 10]
    ranks = torch.where(hits.any(dim=1), hits.int().argmax(dim=1) + 1, 11)
    return rank_metrics(ranks, [10], user_ids=several_targets(store))["ndcg@10"]


def unreachable_share(point: Config, store: SequenceStore) -> float:
    """Share of the targets of a store that no list can hold, because they are in the history of their user."""
    assert store.targets is not None
    if not point.evaluate.filter_seen:
        return 0.0
    found = count_repeated(store.targets.numpy(), store.items.numpy(), store.offsets.numpy())
    return found / len(store)
