"""Ranked lists batch by batch, and the parquet or CSV that stores them with the ids of the raw log."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from torch import Tensor

from cutrec.workflow.ranking import user_batches
from rec_data.sequences.store import SequenceStore
from rec_eval import TopK, top_k
from rec_models.encoders import Encoder


def ranked_batches(
    encoder: Encoder, store: SequenceStore, k: int, *, batch_users: int, filter_seen: bool, title: str
) -> Iterator[tuple[Tensor, TopK]]:
    """Rank the whole catalogue for all users of a store, in their order; arguments as of `user_batches`.

    Yields:
        The dense ids ``[u]`` of the users of a batch, and their lists ``[u, k]``.
    """
    for batch in user_batches(encoder, store, batch_users=batch_users, filter_seen=filter_seen, title=title):
        lists = top_k(batch.queries, batch.items, k, seen_offsets=batch.seen_offsets, seen_items=batch.seen_items)
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
    fields = {"user_id": users.type, "item_id": items.type, "rank": pa.int32(), "score": pa.float32()}
    schema = pa.schema(list(fields.items()))
    with csv.CSVWriter(path, schema) if as_csv else pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for user_ids, lists in ranked:
            ids, scores = lists.ids.cpu().numpy(), lists.scores.cpu().numpy()
            rows, places = np.nonzero(ids >= 0)
            columns = [
                users.take(pa.array(user_ids.numpy()[rows])),
                items.take(pa.array(ids[rows, places])),
                pa.array((places + 1).astype(np.int32)),
                pa.array(scores[rows, places]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            yield ids
