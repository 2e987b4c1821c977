"""Loading a model with its catalogue, and the loop that validation, test and recommending share.

The loop yields batches of users, their vectors and their seen items. All three rank by the same numbers, so that the
epoch that validation chooses is the best one for the test.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.hardware import is_ampere_or_newer
from cutrec.errors import StageError
from rec_data.ids import Ids, read_ids
from rec_data.progress import progress
from rec_data.sequences.batches import inference_batches
from rec_data.sequences.store import SequenceStore
from rec_eval import Catalogue, Part
from rec_models import inference
from rec_models.encoders import Encoder
from rec_models.encoders.sharded_lookup import encode_last
from rec_models.training.checkpoint import ModelCheckpoint


class UserBatch(NamedTuple):
    """The users of rows ``start`` to ``end`` of a store, ready to be ranked."""

    start: int
    end: int
    queries: Tensor
    """[u, D] in the dtype of `scoring_dtype`."""
    items: Catalogue
    """[V, D] the item table, in the same dtype; checked for NaN once, not with every batch. See `part_of`."""
    seen_offsets: Tensor | None
    """[u + 1] int64 on the CPU, from 0; None where seen items stay in the ranking."""
    seen_items: Tensor | None
    """[n] int32 on the CPU."""


def load_encoder(model: Path, items: Path, device: torch.device) -> tuple[Encoder, Ids]:
    """Load a checkpoint in eval mode, and the original ids of its catalogue from an ``items.parquet``.

    Raises:
        StageError: the model was trained with another catalogue.
        ValueError: one of the files is damaged.
    """
    encoder, catalogue = inference.load(model, device), read_ids(items)
    refuse_other_catalogue(model, encoder, catalogue)
    return encoder, catalogue


def refuse_other_catalogue(model: Path, trained: Encoder | ModelCheckpoint, catalogue: Ids) -> None:
    """Refuse a model with a catalogue that it was not trained with; a note if the model does not say.

    Raises:
        StageError: naming both files.
    """
    found = len(catalogue.names)
    if found != trained.num_items:
        raise StageError(f"{model} ranks {trained.num_items} items, but {catalogue.path} holds {found}")
    if trained.catalogue is None:
        print(f"note: {model} is of an earlier version, which did not record the ids of its items", file=sys.stderr)
    elif trained.catalogue != catalogue.hash:
        raise StageError(
            f"{catalogue.path} is not the catalogue that {model} was trained with: found ids with the hash "
            f"{catalogue.hash[:12]}, allowed: {trained.catalogue[:12]}; keep a model and its items.parquet together, "
            "or train again (dvc repro)"
        )


def scoring_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the vectors that are multiplied: bf16 on a GPU that has it, with sums in fp32, else fp32."""
    return torch.bfloat16 if is_ampere_or_newer(device) else torch.float32


def scoring_catalogue(encoder: Encoder, *, int8: bool = False) -> Catalogue:
    """The item table ``[V, D]`` in the dtype in which it is multiplied, checked for NaN; `int8` as of `Catalogue`."""
    return Catalogue(encoder.item_table.detach().to(scoring_dtype(encoder.item_table.device)), int8=int8)


def part_of(encoder: Encoder) -> Part | None:
    """The rows of the item table that this process has; None: all."""
    if encoder.shard is None:
        return None
    rows = encoder.shard.rows
    return Part(rows.ids(encoder.item_table.device), rows.num_items, replace(rows, rank=0).number, encoder.shard.group)


def user_batches(
    encoder: Encoder,
    store: SequenceStore,
    *,
    batch_users: int,
    filter_seen: bool,
    title: str,
    catalogue: Catalogue | None = None,
) -> Iterator[UserBatch]:
    """Encode all users of a store in their order; a progress bar appears after five seconds.

    In training with a sharded table all processes do this together, and each has its part of the catalogue.

    Args:
        encoder: in eval mode; the work is done on its device. A GPU holds a bf16 copy of the item table.
        store: the histories.
        batch_users: users per batch.
        filter_seen: leave a user's own items out of their ranking.
        title: of the progress bar.
        catalogue: of `scoring_catalogue`, for many calls with the same encoder; None makes it.
    """
    device = encoder.item_table.device
    items = scoring_catalogue(encoder) if catalogue is None else catalogue
    start = 0
    batches = inference_batches(store, max_seq_len=encoder.settings.max_seq_len, batch_size=batch_users, device=device)
    silent = encoder.shard is not None and encoder.shard.rows.rank > 0
    silent = silent or len(store) <= batch_users  # a bar costs a millisecond
    with progress(title, len(store), "user", leave=False, disable=silent) as bar:
        for batch in batches:
            end = start + len(batch.offsets) - 1
            with torch.no_grad():
                queries = encode_last(encoder, batch.items, batch.offsets).to(items.items.dtype)  # [u, D]
            offsets = store.offsets[start : end + 1]
            seen_items = store.items[offsets[0] : offsets[-1]]
            seen = (offsets - offsets[0], seen_items) if filter_seen else (None, None)
            yield UserBatch(start, end, queries, items, *seen)
            bar.update(end - start)
            start = end
