"""A log to train, validation and test sequences, by one of two strategies."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, Mask, to_arrow
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import hash_ids
from rec_data.progress import progress
from rec_data.schema import COUNT, HISTORY, ITEM, ORIGINAL_ID, TARGET, TARGET_TIME, TIMESTAMPS, USER
from rec_data.sequences.parts import Part
from rec_data.sequences.store import write_store
from rec_data.splits.clock import count_dates, date_facts, to_ticks
from rec_data.splits.decide import Division, leave_one_out, temporal
from rec_data.splits.each_part import Logs, each, total
from rec_data.splits.encode import LogFacts, encode
from rec_data.splits.moments import range_of
from rec_data.splits.sorted_log import SortedLog, Subset
from rec_data.splits.strategies import Partition
from rec_data.splits.targets import TargetRule
from rec_data.stated import stated

Names = Sequence[object] | pl.Series
"""Original ids."""

EXPORT_ROWS = 4_000_000
"""Interactions per row group of the exported parquet files."""


def split_log(
    log: Path,
    out: Path,
    settings: Split | None = None,
    *,
    seed: int = 42,
    filter_seen: bool = True,
    paper_faithful: bool = False,
    tie_seed: int | None = 42,
) -> dict[str, Any]:
    """Split a log and write the files.

    Args:
        log: The parquet file of ``fetch_log``.
        out: An existing, empty folder.
        settings: The strategy, its shares and the filters; None means the defaults.
        seed: Seed of the choice of validation users.
        filter_seen: Whether ranking will leave out seen items, so that targets among them count as unreachable.
        paper_faithful: Follow the paper's code (``rec_data.splits.strategies.temporal``). The inputs of users with a
            future who are not tested are then written as ``untargeted``: the paper's Coverage and Surprisal count them.
        tie_seed: Seed of the order of a user's interactions with equal times (``Download.tie_seed``); None keeps the
            order of rows.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        DataError: A negative seed, a folder in use, or a log that cannot be split this way.
    """
    settings = settings or Split()
    check_folder(out)
    if seed < 0:
        raise DataError(f"seed {seed}; allowed: at least 0")
    if paper_faithful:
        _refuse_other_rules(settings)
    fewest_items, fewest_users = settings.min_counts()
    with progress("split", 7) as bar:
        encoded = encode(
            log,
            min_item_count=fewest_items,
            min_user_count=fewest_users,
            tie_seed=tie_seed,
            until=settings.test_until,
        )
        bar.update()
        refuse_trivial(encoded.raw, encoded.user_names, encoded.item_names)
        division = decide([encoded.log], encoded.unit, settings, seed=seed, paper_faithful=paper_faithful)
        bar.update()
        counts = division.catalogue.counts[division.catalogue.items]
        summary = summarize(
            encoded,
            division,
            settings,
            seed=seed,
            filter_seen=filter_seen,
            paper_faithful=paper_faithful,
            tie_seed=tie_seed,
        )
        users = encoded.user_names.filter(pl.Series(division.users))
        items = encoded.item_names.filter(pl.Series(division.catalogue.items))
        hashes = write_names(users, items, counts, out)
        (out / "sequences").mkdir()
        for part, partition in division.partitions:
            summary |= write_subsets(part, partition, Numbers.of(division), out, hashes, filter_seen=filter_seen)
            bar.update(4)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        bar.update()
    return summary


def decide(logs: Logs, unit: str, settings: Split, *, seed: int, paper_faithful: bool = False) -> Division:
    """Decide how a filtered log in this unit of time is divided.

    Raises:
        DataError: It cannot be split this way.
    """
    rule = TargetRule(settings.target, settings.seen_targets, seed)
    if settings.strategy == "temporal":
        division = temporal(
            logs,
            test_fraction=settings.test_fraction,
            test_from=None if settings.test_from is None else to_ticks(settings.test_from, unit),
            validation_users=settings.validation_users,
            validation=settings.validation,
            seed=seed,
            rule=rule,
            paper_faithful=paper_faithful,
        )
    else:
        division = leave_one_out(logs, holdout=settings.holdout, rule=rule)
    _refuse_untrainable(division, settings)
    return division


def summarize(
    encoded: LogFacts,
    division: Division,
    settings: Split,
    *,
    seed: int,
    filter_seen: bool,
    paper_faithful: bool,
    tie_seed: int | None,
) -> dict[str, Any]:
    """The summary of a split, without its subsets."""
    temporally, (fewest_items, fewest_users) = settings.strategy == "temporal", settings.min_counts()
    return {
        "strategy": settings.strategy,
        "test_fraction": settings.test_fraction if temporally else None,
        "test_from": settings.test_from,
        "test_until": settings.test_until,
        "validation_by": settings.validation if temporally else None,
        "validation_users": settings.validation_users if temporally and settings.validation == "users" else None,
        "holdout": None if temporally else settings.holdout,
        "target": settings.target,
        "seen_targets": settings.seen_targets,
        "min_item_count": fewest_items,
        "min_user_count": fewest_users,
        "seed": seed,
        "filter_seen": filter_seen,
        "paper_faithful": paper_faithful,
        "ties": "row_order" if tie_seed is None else "shuffle",
        **_facts(encoded, division),
    }


def check_folder(out: Path) -> None:
    """Refuse a missing folder, or one that is not empty."""
    if not out.is_dir():
        raise DataError(f"out {out} is not a folder; allowed: an existing, empty one")
    found = sorted(path.name for path in out.iterdir())
    if found:
        raise DataError(f"out {out} already holds {found[0]!r}; allowed: an existing, empty folder")


def _facts(encoded: LogFacts, division: Division) -> dict[str, Any]:
    """Summarise the log as a whole."""
    logs, boundary = division.logs, getattr(division.strategy, "boundary", None)
    number, first, last = range_of(logs)
    dates = date_facts(each(logs, lambda log: count_dates(log.times, first, last)), first, last)
    future, at_once = (
        None if boundary is None else sum(each(logs, partial(_count_times, at, boundary))) / number
        for at in (np.greater_equal, np.equal)
    )
    items = total(logs, lambda log: arrays.mark(log.items, log.num_items))
    return {
        "timestamp_unit": encoded.unit,
        "first_time": first,
        "last_time": last,
        "boundary_time": boundary,
        "future_share": future,
        "boundary_share": at_once,
        "clock": dates.clock,
        "dates_only": dates.dates_only,
        "tied_interactions": encoded.ties.tied,
        "duplicate_interactions": encoded.ties.duplicates,
        "copies_of_every_row": encoded.ties.copies,
        "users": int(np.count_nonzero(division.users)),
        "items": int(np.count_nonzero(division.catalogue.items)),
        "log": encoded.raw,
        "filtered": {
            "users": len(division.users),
            "items": int(np.count_nonzero(items)),
            "interactions": number,
        },
        "dropped": {**encoded.dropped, **division.dropped},
    }


def _count_times(compare: Callable[[Int64s, int], Mask], moment: int, log: SortedLog) -> int:
    return int(np.count_nonzero(compare(log.times, moment)))


def refuse_trivial(raw: dict[str, int], users: Names, items: Names) -> None:
    """Refuse a log with a single user or a single item: ``raw`` counts them before the filters."""
    for what, names in (("user", users), ("item", items)):
        if len(names) < 2:
            raise DataError(
                f"the log has one {what} left after filtering ({names[0]!r}); at least two are needed "
                f"(the log had {raw[what + 's']}; "
                f"{stated({'split.min_item_count': 1, 'split.min_user_count': 1})} keep all)"
            )


def _refuse_other_rules(settings: Split) -> None:
    """Refuse rules that the paper's code does not have."""
    for key, only in (("validation", "users"), ("target", "last"), ("seen_targets", "keep")):
        if (found := getattr(settings, key)) != only:
            raise DataError(f"split.{key}: found {found} with paper_faithful, allowed: {only}")


def _refuse_untrainable(division: Division, settings: Split) -> None:
    """Refuse a split whose training histories are all too short: an example needs an item and the one after it."""
    if division.trainable:
        return
    start = "t*" if settings.validation == "users" else "t_v"
    reason = f"no user outside validation has two interactions before {start}"
    if settings.strategy == "leave_one_out":
        held_out = 2 * settings.holdout
        reason = f"it holds out {held_out} interactions of each user, and no user has {held_out + 2}"
    raise DataError(
        f"split.strategy {settings.strategy} leaves nothing to train on: {reason}; allowed: a log with longer histories"
    )


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
