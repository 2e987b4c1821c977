"""A log to train, validation and test sequences, by one of two strategies."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rec_data import arrays
from rec_data.arrays import Int64s, Mask
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.sequences.parts import count_rows
from rec_data.splits.bounded import EncodedParts, encode_in_parts, parts_of, require_one_part
from rec_data.splits.clock import count_dates, date_facts, to_ticks
from rec_data.splits.decide import Division, leave_one_out, temporal
from rec_data.splits.each_part import Logs, each, total
from rec_data.splits.encode import EncodedLog, LogFacts, encode
from rec_data.splits.moments import range_of
from rec_data.splits.part_files import WORK, part_writer, sorted_folder
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.targets import TargetRule
from rec_data.splits.write import Numbers, merge_facts, write_names, write_subsets
from rec_data.stated import stated

Names = Sequence[object] | pl.Series
"""Original ids."""


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
    parts = parts_of(count_rows(log), settings.memory_bytes)
    if paper_faithful:
        _refuse_other_rules(settings)
        require_one_part(parts, settings, "paper_faithful")
    with progress("split", 3 + 4 * parts) as bar, _work_folder(out) as work:
        encoded: EncodedLog | EncodedParts
        if parts == 1:
            fewest_items, fewest_users = settings.min_counts()
            encoded = encode(
                log,
                min_item_count=fewest_items,
                min_user_count=fewest_users,
                tie_seed=tie_seed,
                until=settings.test_until,
            )
        else:
            encoded = encode_in_parts(log, work, settings, parts=parts, tie_seed=tie_seed)
        bar.update()
        refuse_trivial(encoded.raw, encoded.user_names, encoded.item_names)
        division = decide(encoded.logs, encoded.unit, settings, seed=seed, paper_faithful=paper_faithful)
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
        if isinstance(encoded, EncodedParts):
            write = part_writer(
                encoded.logs,
                division,
                encoded.sorted_parts,
                summary,
                hashes,
                work=work,
                out=out,
                filter_seen=filter_seen,
            )
            facts = []
            for number in encoded.logs.numbers:
                facts.append(write(number))
                shutil.rmtree(sorted_folder(work, number))
                bar.update(4)
            summary |= {**merge_facts(facts), "parts": parts}
        else:
            for part, partition in division.partitions:
                summary |= write_subsets(part, partition, Numbers.of(division), out, hashes, filter_seen=filter_seen)
                bar.update(4)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        bar.update()
    return summary


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Yield a folder in that of the split, which is removed when the block ends."""
    work = out / WORK
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work)


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
