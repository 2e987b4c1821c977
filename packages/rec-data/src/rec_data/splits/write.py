"""The files of a split: sequence stores, their export as parquet, and the original ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, Mask, to_arrow
from rec_data.ids import hash_ids
from rec_data.schema import COUNT, HISTORY, ITEM, ORIGINAL_ID, TARGET, TARGET_TIME, TIMESTAMPS, USER
from rec_data.sequences.parts import Part
from rec_data.sequences.store import write_store
from rec_data.splits.decide import Division
from rec_data.splits.sorted_log import SortedLog, Subset
from rec_data.splits.strategies import Partition

EXPORT_ROWS = 4_000_000
"""Interactions per row group of the exported parquet files."""


def dense_ids(kept: Mask) -> Int32s:
    """Number the kept ids in their order; the others get -1."""
    ids = np.cumsum(kept, dtype=np.int32) - 1
    ids[~kept] = -1
    return ids


def renumber(subset: Subset, dense_user: Int32s, dense_item: Int32s) -> Subset:
    """Replace the ids of the sorted log by those of the split."""
    targets = None if subset.targets is None else dense_item[subset.targets]
    items = arrays.lookup(dense_item, subset.items)
    return Subset(dense_user[subset.users], subset.offsets, items, subset.times, targets, subset.target_times)


class Numbers(NamedTuple):
    """The dense ids of a split."""

    users: Int32s
    """``[users of the filtered log]``."""
    items: Int32s
    """``[items of the filtered log]``."""
    counts: Int64s
    """``[items of the split]`` how often train holds each."""

    @classmethod
    def of(cls, division: Division) -> "Numbers":
        """Those of a divided log."""
        items = division.catalogue.items
        return cls(dense_ids(division.users), dense_ids(items), division.catalogue.counts[items])


def write_subsets(
    log: SortedLog,
    partition: Partition,
    numbers: Numbers,
    out: Path,
    hashes: dict[str, str],
    *,
    filter_seen: bool,
    part: Part | None = None,
    run: str | None = None,
) -> dict[str, dict[str, int]]:
    """Write the subsets of a divided log, or of a part of one, and describe each by its name."""
    facts = {}
    for name, subset in partition.subsets.items():
        subset = renumber(subset, log.of_users(numbers.users), numbers.items)
        write_histories(subset, out, name, hashes, part=part, run=run)
        facts[name] = describe_subset(subset, numbers.counts, filter_seen=filter_seen)
    return facts


_FACTS = (
    "users", "interactions", "targets", "targets_already_in_history", "unreachable_targets", "targets_unseen_in_train",
)  # fmt: skip
"""Of `describe_subset`. Without ``targets`` there are as many as users."""


def describe_subset(subset: Subset, counts: Int64s, *, filter_seen: bool) -> dict[str, int]:
    """Summarise a subset: its size, and for evaluation the targets that no model can hit."""
    facts = {"users": len(np.unique(subset.users)), "interactions": len(subset.items)}
    if subset.targets is None:
        return facts
    if len(subset.targets) > facts["users"]:
        facts["targets"] = len(subset.targets)
    repeated = arrays.count_repeated(subset.targets, subset.items, subset.offsets)
    facts["targets_already_in_history"] = repeated
    facts["unreachable_targets"] = repeated if filter_seen else 0
    facts["targets_unseen_in_train"] = int((counts[subset.targets] == 0).sum())
    return facts


def merge_facts(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """What `write_subsets` says of each part of a split, as it says it of a whole one."""
    whole = {}
    for name in parts[0]:
        found = [part[name] for part in parts]
        known = [fact for fact in _FACTS if any(fact in one for one in found)]
        whole[name] = {fact: sum(one.get(fact, one["users"]) for one in found) for fact in known}
    return whole


def write_histories(
    subset: Subset,
    out: Path,
    name: str,
    hashes: dict[str, str],
    *,
    part: Part | None = None,
    run: str | None = None,
) -> None:
    """Write the sequence store, and its export as parquet, a few million interactions at a time.

    A part of a split (``rec_data.sequences.subsets``) goes into folders of its subset, which are there.
    """
    place = name if part is None else f"{name}/{part.name}"
    write_store(
        out / "sequences" / f"{place}.arrow",
        items=subset.items,
        offsets=subset.offsets,
        user_ids=subset.users,
        targets=subset.targets,
        hashes=hashes,
        part=part,
        run=run,
    )
    fields = [(USER, pa.int32()), (HISTORY, pa.list_(pa.int32())), (TIMESTAMPS, pa.list_(pa.int64()))]
    if subset.targets is not None:
        fields += [(TARGET, pa.int32()), (TARGET_TIME, pa.int64())]
    schema = pa.schema(fields)
    encoding = dict.fromkeys((USER, f"{TIMESTAMPS}.list.element"), "DELTA_BINARY_PACKED")  # both ascend
    with pq.ParquetWriter(
        out / f"{place}.parquet", schema, compression="zstd", use_dictionary=False, column_encoding=encoding
    ) as writer:
        for rows in arrays.chunks(subset.offsets, EXPORT_ROWS):
            begin, end = int(subset.offsets[rows.start]), int(subset.offsets[rows.stop])
            offsets = to_arrow((subset.offsets[rows.start : rows.stop + 1] - begin).astype(np.int32))
            columns = [
                to_arrow(subset.users[rows]),
                pa.ListArray.from_arrays(offsets, to_arrow(subset.items[begin:end])),
                pa.ListArray.from_arrays(offsets, to_arrow(subset.times[begin:end])),
            ]
            if subset.targets is not None:
                assert subset.target_times is not None
                columns += [to_arrow(subset.targets[rows]), to_arrow(subset.target_times[rows])]
            writer.write_table(pa.table(columns, schema=schema))


def write_names(users: pl.Series, items: pl.Series, counts: Int64s, out: Path) -> dict[str, str]:
    """Write the original ids of users and items, and how often train holds each item; return the hashes of the ids."""
    user_ids, item_ids = np.arange(len(users), dtype=np.int32), np.arange(len(items), dtype=np.int32)
    pl.DataFrame({USER: user_ids, ORIGINAL_ID: users}).write_parquet(out / "users.parquet")
    pl.DataFrame({ITEM: item_ids, ORIGINAL_ID: items, COUNT: counts}).write_parquet(out / "items.parquet")
    return {"users": hash_ids(users.to_arrow()), "items": hash_ids(items.to_arrow())}
