"""The file of recommendations: a row a user and item, ids as in the raw log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rec_eval import TopK


class RecommendationsWriter:
    """Streams rankings into one parquet: user_id, item_id (both as in the raw log), rank from 1, score."""

    def __init__(self, path: Path, users: Any, items: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

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
        import numpy as np
        import pyarrow as pa

        ids, scores = lists.ids.cpu().numpy(), lists.scores.cpu().numpy()
        rows, places = np.nonzero(ids >= 0)
        columns = [
            self._users.take(pa.array(user_ids[rows])),
            self._items.take(pa.array(ids[rows, places])),
            pa.array((places + 1).astype(np.int32)),
            pa.array(scores[rows, places]),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
