"""The files of a split without some of its users, so that models of the split keep their catalogue."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.schema import ORIGINAL_ID, TARGET_TIME, TIMESTAMPS
from rec_data.sequences.store import SequenceStore
from rec_data.splits.sorted_log import Subset
from rec_data.splits.strategies import SUBSETS
from rec_data.splits.write import describe_subset, write_histories, write_names

EVERYBODY = "at least one other user (to forget everybody, delete data/, .checkpoints/ and DVC's cache and remotes)"
"""What is allowed where nobody would be left."""


def forget_users(split: Path, out: Path, users: pa.Array) -> dict[str, Any]:
    """Write the files of a split again, into another folder and without some users.

    What the split decided for the other users stays as it is: their part, the order of their events, their targets. The
    catalogue stays too, with new counts, even if it then holds items that nobody has, so models still fit. The dense
    ids of users are numbered again from 0 without gaps.

    Args:
        split: The folder that ``split_log`` wrote.
        out: An existing, empty folder.
        users: Original ids, in the type of the log; those that the split does not know are ignored.

    Returns:
        The new summary. Its facts about the log, its filters and its ties are those of the log that was split;
        ``forgotten_users`` says how many of the users are gone.

    Raises:
        DataError: A file is missing or damaged, or nobody is left to train on.
    """
    summary: dict[str, Any] = json.loads((split / "summary.json").read_bytes())
    known_users, items = read_ids(split / "users.parquet"), read_ids(split / "items.parquet")
    hashes = {"users": known_users.hash, "items": items.hash}
    gone = pc.is_in(known_users.names, value_set=users).to_numpy(zero_copy_only=False)
    dense = (np.cumsum(~gone) - 1).astype(np.int32)
    subsets = {
        name: _without(read_subset(split, name, hashes), gone, dense)
        for name in SUBSETS
        if (split / "sequences" / f"{name}.arrow").exists()
    }
    if len(subsets["train"].users) == 0:
        raise DataError(f"{split}: found nobody else to train on, allowed: {EVERYBODY}")
    counts = arrays.count(subsets["train"].items, len(items.names))
    names = [pl.read_parquet(split / f"{name}.parquet")[ORIGINAL_ID] for name in ("users", "items")]
    hashes = write_names(names[0].filter(pl.Series(~gone)), names[1], counts, out)
    (out / "sequences").mkdir()
    for name, subset in subsets.items():
        write_histories(subset, out, name, hashes)
        summary[name] = describe_subset(subset, counts, filter_seen=summary["filter_seen"])
    summary["users"] = int(np.count_nonzero(~gone))
    summary["forgotten_users"] = summary.get("forgotten_users", 0) + int(np.count_nonzero(gone))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def read_subset(split: Path, name: str, hashes: dict[str, str]) -> Subset:
    """A part of the split: its sequence store, which is checked, and the times of the exported parquet."""
    if (split / "sequences" / name).is_dir():
        raise DataError(
            f"{split}: found a split in parts, allowed: one part here; a larger split.memory makes one "
            "(-S split.memory=64GiB)"
        )
    store = SequenceStore.open(split / "sequences" / f"{name}.arrow", hashes=hashes)
    path = split / f"{name}.parquet"
    try:
        columns = [TIMESTAMPS] if store.targets is None else [TIMESTAMPS, TARGET_TIME]
        table = pq.read_table(path, columns=columns)
        lists = table[TIMESTAMPS]
        target_times = None if store.targets is None else table[TARGET_TIME].to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    parts = [np.asarray(chunk.flatten()) for chunk in lists.chunks]
    times: Int64s = np.concatenate([np.empty(0, np.int64), *parts])
    if len(lists) != len(store) or len(times) != len(store.items):
        raise DataError(f"{path} does not belong to sequences/{name}.arrow: found {len(lists)} histories of "
                        f"{len(times)} events, allowed: {len(store)} of {len(store.items)}")  # fmt: skip
    targets = None if store.targets is None else store.targets.numpy()
    return Subset(store.user_ids.numpy(), store.offsets.numpy(), store.items.numpy(), times, targets, target_times)


def _without(subset: Subset, gone: Mask, dense: Int32s) -> Subset:
    """The histories of the other users, under their new ids."""
    keep = ~gone[subset.users]
    rows = arrays.spread(keep, subset.offsets)
    offsets = np.concatenate(([0], np.cumsum(subset.lengths[keep])))
    targets = None if subset.targets is None else subset.targets[keep]
    target_times = None if subset.target_times is None else subset.target_times[keep]
    return Subset(dense[subset.users[keep]], offsets, subset.items[rows], subset.times[rows], targets, target_times)
