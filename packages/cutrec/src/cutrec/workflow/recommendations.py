"""Ranked lists batch by batch, and the parquet or CSV that stores them with the ids of the raw log."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from torch import Tensor

from cutrec.workflow.ranking import user_batches
from rec_data.arrays import Int32s, Int64s
from rec_data.sequences.store import SequenceStore
from rec_eval import Catalogue, TopK, top_k
from rec_models.encoders import Encoder

FindTopK = Callable[..., TopK]
"""`rec_eval.top_k`, or a function that takes the same arguments."""


def ranked_batches(
    encoder: Encoder,
    store: SequenceStore,
    k: int,
    *,
    batch_users: int,
    filter_seen: bool,
    title: str,
    catalogue: Catalogue | None = None,
    hidden: tuple[Tensor, Tensor] | None = None,
    find: FindTopK = top_k,
) -> Iterator[tuple[Tensor, TopK]]:
    """Rank the catalogue for all users of a store, in their order; further arguments as of `user_batches`.

    Args:
        encoder: in eval mode.
        store: the histories.
        k: items per user.
        batch_users: users per batch.
        filter_seen: leave a user's own items out of their list.
        title: of the progress bar.
        catalogue: of `scoring_catalogue`; one of `rec_eval.Catalogue.among` ranks some of the items only.
        hidden: what is left out of each user's list, as offsets ``[len(store) + 1]`` and items; without `filter_seen`.
        find: what ranks a batch, with the arguments of `rec_eval.top_k`.

    Yields:
        The dense ids ``[u]`` of the users of a batch, and their lists ``[u, k]``.
    """
    batches = user_batches(
        encoder, store, batch_users=batch_users, filter_seen=filter_seen, title=title, catalogue=catalogue
    )
    for batch in batches:
        seen = (batch.seen_offsets, batch.seen_items)
        if hidden is not None:
            offsets = hidden[0][batch.start : batch.end + 1]
            seen = (offsets - offsets[0], hidden[1][offsets[0] : offsets[-1]])
        lists = find(batch.queries, batch.items, k, seen_offsets=seen[0], seen_items=seen[1])
        yield store.user_ids[batch.start : batch.end], lists


def write_recommendations(
    path: Path, ranked: Iterable[tuple[Tensor, TopK]], users: pa.Array, items: pa.Array, *, as_csv: bool = False
) -> Iterator[npt.NDArray[Any]]:
    """Stream rankings into one file: user_id, item_id (both as in the raw log), rank from 1, score.

    Args:
        path: the file; it is complete when the iterator ends.
        ranked: dense ids of users and their lists; empty places (-1: fewer candidates than k) are left out.
        users: original ids by dense id.
        items: original ids by dense id.
        as_csv: write CSV with a header line in place of parquet.

    Yields:
        The item ids ``[u, k]`` of each batch, -1 in empty places.
    """
    with list_writer(path, users.type, items.type, as_csv=as_csv) as writer:
        yield from append_lists(writer, ranked, users, items)


def list_writer(
    path: Path, users: pa.DataType, items: pa.DataType, *, as_csv: bool = False
) -> csv.CSVWriter | pq.ParquetWriter:
    """Open the file of `write_recommendations`, for ids of these types; it is complete when the writer is closed."""
    fields = {"user_id": users, "item_id": items, "rank": pa.int32(), "score": pa.float32()}
    schema = pa.schema(list(fields.items()))
    return csv.CSVWriter(path, schema) if as_csv else pq.ParquetWriter(path, schema, compression="zstd")


def append_lists(
    writer: csv.CSVWriter | pq.ParquetWriter, ranked: Iterable[tuple[Tensor, TopK]], users: pa.Array, items: pa.Array
) -> Iterator[npt.NDArray[Any]]:
    """Stream rankings into the file of a `list_writer`, as `write_recommendations` does."""
    for user_ids, lists in ranked:
        ids, scores = lists.ids.cpu().numpy(), lists.scores.cpu().numpy()
        writer.write_table(list_table(user_ids.numpy(), ids, scores, users, items))
        yield ids


def list_table(
    user_ids: Int32s, ids: Int64s, scores: npt.NDArray[np.float32], users: pa.Array, items: pa.Array
) -> pa.Table:
    """Lists as a table of user_id, item_id (both as in the raw log), rank from 1, score.

    Args:
        user_ids: ``[u]`` dense ids of the users.
        ids: ``[u, k]`` dense ids of the items, -1 in empty places, which are left out.
        scores: ``[u, k]``.
        users: original ids by dense id.
        items: original ids by dense id.
    """
    rows, places = np.nonzero(ids >= 0)
    columns = {
        "user_id": users.take(pa.array(user_ids[rows])),
        "item_id": items.take(pa.array(ids[rows, places])),
        "rank": pa.array((places + 1).astype(np.int32)),
        "score": pa.array(scores[rows, places]),
    }
    return pa.table(columns)
