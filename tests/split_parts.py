"""A split of one part, written again in several parts of its users."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cutrec.checksums import NAME, write_checksums
from rec_data.ids import read_ids
from rec_data.sequences.parts import Part, hash_ids_of
from rec_data.sequences.store import SequenceStore, write_store


def divide(split: Path, parts: int, run: str = "run") -> Path:
    """Replace the stores and tables of a split by those of its parts; one part is left as it is."""
    if parts == 1:
        return split
    users, items = read_ids(split / "users.parquet"), read_ids(split / "items.parquet")
    part_of = hash_ids_of(users.names) % parts  # [users]
    for path in sorted((split / "sequences").glob("*.arrow")):
        store, table = SequenceStore.open(path), pq.read_table(split / f"{path.stem}.parquet")
        for folder in (split / "sequences" / path.stem, split / path.stem):
            folder.mkdir()
        for index in range(parts):
            part, rows = Part(index + 1, parts), np.flatnonzero(part_of[store.user_ids.numpy()] == index)
            histories = [store.items[store.offsets[row] : store.offsets[row + 1]] for row in rows.tolist()]
            write_store(
                split / "sequences" / path.stem / f"{part.name}.arrow",
                items=torch.cat([store.items[:0], *histories]).numpy(),
                offsets=np.concatenate([[0], np.cumsum(store.lengths.numpy()[rows])]),
                user_ids=store.user_ids.numpy()[rows],
                targets=None if store.targets is None else store.targets.numpy()[rows],
                hashes={"users": users.hash, "items": items.hash},
                part=part,
                run=run,
            )
            pq.write_table(table.take(pa.array(rows)), split / path.stem / f"{part.name}.parquet")
        path.unlink()
        (split / f"{path.stem}.parquet").unlink()
    summary = json.loads((split / "summary.json").read_text())
    (split / "summary.json").write_text(json.dumps(summary | {"parts": parts}, indent=2) + "\n")
    if (split / NAME).is_file():
        write_checksums(split)
    return split
