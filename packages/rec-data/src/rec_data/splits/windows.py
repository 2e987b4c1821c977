"""The windows of a backtest, and the test of a later window for the models of an earlier split."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.compute as pc

from rec_data import arrays
from rec_data.arrays import Int32s
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.raw.files import reading
from rec_data.raw.timestamps import unit_of
from rec_data.schema import ORIGINAL_ID, TIMESTAMP, UNITS
from rec_data.splits.clock import has_clock, nothing_before, to_ticks
from rec_data.splits.encode import encode
from rec_data.splits.forget import read_subset
from rec_data.splits.sorted_log import Subset
from rec_data.splits.targets import TargetRule, hold_out
from rec_data.splits.write import describe_subset, write_histories, write_names
from rec_data.stated import stated


class Window(NamedTuple):
    """A period of the log, in its unit of time."""

    begin: int
    end: int
    """The first moment after the window."""


def windows_of(
    log: Path, count: int, *, share: float, days: int | None = None, until: int | str | None = None
) -> list[Window]:
    """Divide the end of a log into successive windows, the last of which ends with the log.

    Args:
        log: The parquet file of ``fetch_log``.
        count: How many windows.
        share: Of the interactions that lie in each window, in (0, 1).
        days: Of each window, instead of ``share``.
        until: The log as if it ended before this moment (``rec_data.config.Split.test_until``).

    Raises:
        DataError: The log cannot be read, has positions instead of times or is too short for these windows, or its
            times are too coarse.
    """
    with reading(f"log {log}"):
        times = pl.read_parquet(log, columns=[TIMESTAMP])[TIMESTAMP].to_numpy()
    if not has_clock(times):
        raise DataError(
            f"--windows: found times up to {int(times.max())}, which are positions and not Unix times after 1990, "
            "allowed: a timestamp column that holds a clock, or download.time_format if it holds dates in another form"
        )
    unit = unit_of(int(times.max()))
    if until is not None:
        moment, first = to_ticks(until, unit), int(times.min())
        times = times[times < moment]
        if not times.size:
            raise nothing_before(moment, first)
    if days is None and count * share >= 1:
        raise DataError(
            f"--windows: found {count} with split.test_fraction {share:g}, which leaves nothing before the first "
            f"window; allowed: a product below 1, such as {stated({'split.test_fraction': f'{0.5 / count:.2g}'})}"
        )
    end = int(times.max()) + 1
    if days is not None:
        begins = [end - (count - number) * days * 86_400 * UNITS[unit] for number in range(count)]
    else:
        places = [int(len(times) * (1 - share * (count - number))) for number in range(count)]
        begins = np.partition(times, places)[places].tolist()
    if begins[0] <= int(times.min()):
        length = "" if days is None else f" of --days {days}"
        raise DataError(
            f"--windows: found {count}{length}, and no interaction lies before the first one, allowed: fewer or shorter"
        )
    if len(set(begins)) < count:
        raise DataError(
            f"--windows: found {count}, of which some begin at the same moment, because many interactions have equal "
            "times; allowed: fewer windows, or --days"
        )
    return [Window(*bounds) for bounds in zip(begins, [*begins[1:], end], strict=True)]


def split_later(
    log: Path, split: Path, out: Path, settings: Split, *, seed: int, filter_seen: bool, tie_seed: int | None
) -> dict[str, Any]:
    """Write the test of a later window for the models of a split, which are not trained again.

    The catalogue and the training data are those of the split. Tested are the users with interactions on items of the
    catalogue both before the window and in it, except those who validated; histories reach up to their targets. What
    they did in the window on other items, which are newer than the split or were too rare for it, is no target:
    ``unknown_items_share`` of the summary says how much that is.

    Args:
        log: The parquet file that was split.
        split: The folder that ``split_log`` wrote.
        out: An existing, empty folder for ids, ``train`` and ``test``, and ``summary.json``.
        settings: ``test_from`` and ``test_until`` are the window; the choice of targets.
        seed: Seed of random targets.
        filter_seen: Whether ranking will leave out seen items.
        tie_seed: As for the split.

    Returns:
        The summary.

    Raises:
        DataError: A file is missing or damaged, or the window has no test user.
    """
    assert settings.test_from is not None
    old_users, items = read_ids(split / "users.parquet"), read_ids(split / "items.parquet")
    hashes = {"users": old_users.hash, "items": items.hash}
    train = read_subset(split, "train", hashes)
    encoded = encode(log, min_item_count=None, min_user_count=None, tie_seed=tie_seed, until=settings.test_until)
    ids, users = (series.to_arrow() for series in (encoded.item_names, encoded.user_names))
    dense_item: Int32s = pc.fill_null(pc.index_in(ids, value_set=items.names.cast(ids.type)), -1).to_numpy()
    found: Int32s = pc.index_in(old_users.names.cast(users.type), value_set=users).to_numpy()
    everything, begin = encoded.log, to_ticks(settings.test_from, encoded.unit)

    validated = np.zeros(everything.num_users, dtype=bool)
    if json.loads((split / "summary.json").read_bytes())["validation_by"] == "users":
        validated[found[read_subset(split, "validation", hashes).users]] = True
    known = arrays.lookup(dense_item >= 0, everything.items)
    usable = known & ~arrays.spread(validated, everything.offsets)
    past = everything.times < begin
    returning = arrays.spread(arrays.count_rows(usable & past, everything.offsets) > 0, everything.offsets)
    in_window = ~past & returning
    rule = TargetRule(settings.target, settings.seen_targets, seed)
    test, without = hold_out(everything, usable, usable & in_window, rule)
    if test.users.size == 0:
        raise DataError(
            f"split.test_from {settings.test_from} leaves no test user; needed: a user with interactions on items of "
            f"train both before and after t* = {begin}"
        )

    kept = arrays.mark(np.concatenate([test.users, found[train.users]]), everything.num_users)
    dense_user = np.cumsum(kept, dtype=np.int32) - 1
    counts = arrays.count(train.items, len(items.names))
    item_names = pl.read_parquet(split / "items.parquet")[ORIGINAL_ID]
    hashes = write_names(encoded.user_names.filter(pl.Series(kept)), item_names, counts, out)
    assert test.targets is not None
    subsets = {
        "train": Subset(dense_user[found[train.users]], train.offsets, train.items, train.times),
        "test": Subset(
            dense_user[test.users],
            test.offsets,
            arrays.lookup(dense_item, test.items),
            test.times,
            dense_item[test.targets],
            test.target_times,
        ),
    }
    summary: dict[str, Any] = {
        "test_from": settings.test_from,
        "test_until": settings.test_until,
        "boundary_time": begin,
        "timestamp_unit": encoded.unit,
        "unknown_items_share": float((~known[in_window]).mean()),
        "dropped": {f"test_users_{reason}": number for reason, number in without.items()},
    }
    (out / "sequences").mkdir()
    for name, subset in subsets.items():
        write_histories(subset, out, name, hashes)
        summary[name] = describe_subset(subset, counts, filter_seen=filter_seen)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
