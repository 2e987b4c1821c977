"""Ranked lists batch by batch, and the parquet that stores them with the ids of the raw log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cutrec.workflow.ranking import user_batches
from rec_eval import TopK, top_k

if TYPE_CHECKING:
    import numpy.typing as npt

    from rec_data.sequences.store import SequenceStore
    from rec_models.encoders import Encoder


def ranked_batches(
    encoder: Encoder, store: SequenceStore, k: int, *, batch_users: int, filter_seen: bool, title: str
) -> Iterator[tuple[int, TopK]]:
    """Rank the whole catalogue for all users of a store, in their order.

    Args:
        encoder: in eval mode.
        store: the histories.
        k: items per user.
        batch_users: users per batch.
        filter_seen: leave items of a user's own history out of their list.
        title: of the progress bar.

    Yields:
        The row of the store that a batch starts at, and its lists ``[u, k]``.
    """
    for batch in user_batches(encoder, store, batch_users=batch_users, filter_seen=filter_seen, title=title):
        yield (
            batch.start,
            top_k(batch.queries, batch.items, k, seen_offsets=batch.seen_offsets, seen_items=batch.seen_items),
        )


class RecommendationsWriter:
    """Streams rankings into one parquet: user_id, item_id (both as in the raw log), rank from 1, score."""

    def __init__(self, path: Path, users: Any, items: Any) -> None:
        self._users, self._items = users, items
        fields = {"user_id": users.type, "item_id": items.type, "rank": pa.int32(), "score": pa.float32()}
        self._schema = pa.schema(list(fields.items()))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> RecommendationsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, user_ids: npt.NDArray[np.int32], lists: TopK) -> None:
        """Append the lists of a batch; empty places (fewer candidates than k) are left out.

        Args:
            user_ids: ``[U]`` dense ids.
            lists: ids ``[U, K]``, -1 for an empty place, and their scores.
        """
        ids, scores = lists.ids.cpu().numpy(), lists.scores.cpu().numpy()
        rows, places = np.nonzero(ids >= 0)
        columns = [
            self._users.take(pa.array(user_ids[rows])),
            self._items.take(pa.array(ids[rows, places])),
            pa.array((places + 1).astype(np.int32)),
            pa.array(scores[rows, places]),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
