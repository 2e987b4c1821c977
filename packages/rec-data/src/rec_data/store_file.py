"""Writing the sequence store. Apart from reading it, because splitting a log needs no torch."""

from pathlib import Path

import pyarrow as pa

from rec_data.arrow import to_arrow
from rec_data.columns import ITEMS, TARGET, USER
from rec_data.flat import Int32s, Int64s


def write_store(
    path: Path,
    *,
    items: Int32s,
    offsets: Int64s,
    user_ids: Int32s,
    targets: Int32s | None = None,
) -> None:
    """Writes a store's file.

    Args:
        path: The file.
        items: [nnz] int32.
        offsets: [n + 1] int64, from 0 to nnz.
        user_ids: [n] int32.
        targets: [n] int32, or None.
    """
    columns = {USER: to_arrow(user_ids), ITEMS: pa.LargeListArray.from_arrays(to_arrow(offsets), to_arrow(items))}
    if targets is not None:
        columns[TARGET] = to_arrow(targets)
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
