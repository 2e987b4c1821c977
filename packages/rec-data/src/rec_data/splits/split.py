"""A log to train, validation and test histories, by one of two protocols."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data import arrays as flat
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw.timestamps import unit_of
from rec_data.schema import COUNT, HISTORY, ITEM, ORIGINAL_ID, TARGET, TIMESTAMPS, USER, to_arrow
from rec_data.sequences.store import write_store
from rec_data.splits.encode import Encoded, encode
from rec_data.splits.strategies import Histories, Parts, leave_one_out, temporal

STRATEGIES = ("temporal", "leave_one_out")
AUTO_COUNTS = {"temporal": (5, 3), "leave_one_out": (None, None)}
"""Fewest interactions of an item and of a user that "auto" means."""

EXPORT_ROWS = 4_000_000
"""Interactions per row group of the exported parquet files."""


def split_log(
    log: Path,
    out: Path,
    *,
    strategy: str = "temporal",
    test_fraction: float = 0.1,
    validation_users: float = 0.05,
    min_item_count: int | str | None = "auto",
    min_user_count: int | str | None = "auto",
    seed: int = 42,
    filter_seen: bool = True,
    paper_faithful: bool = False,
) -> dict[str, Any]:
    """Splits a log and writes the parts.

    Args:
        log: The parquet of ``fetch_log``.
        out: An existing, empty folder.
        strategy: ``temporal`` or ``leave_one_out``.
        test_fraction: Temporal: share of the interactions in the future.
        validation_users: Temporal: share of the past's users that validate.
        min_item_count: Fewest interactions of an item; "auto": 5 (temporal) or no filter; None: no filter.
        min_user_count: Fewest interactions of a user; "auto": 3 (temporal) or no filter; None: no filter.
        seed: Chooses the validation users.
        filter_seen: Whether ranking will leave out seen items: targets among them are counted as unreachable.
        paper_faithful: Temporal: as the paper's code does (``rec_data.splits.strategies.temporal``). Then the inputs
        of test
            users who lost their target are written as ``untargeted``: the paper's Coverage and Surprisal count them.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        DataError: Wrong arguments, a folder in use, or a log that cannot be split so.
    """
    _check_folder(out)
    if seed < 0:
        raise DataError(f"seed {seed}; allowed: at least 0")
    fewest_items, fewest_users = _check_arguments(
        strategy, test_fraction, validation_users, min_item_count, min_user_count
    )
    with progress("split", 7) as bar:
        encoded = encode(log, min_item_count=fewest_items, min_user_count=fewest_users)
        bar.update()
        _refuse_trivial(encoded)
        if strategy == "temporal":
            parts = temporal(
                encoded.log,
                test_fraction=test_fraction,
                validation_users=validation_users,
                seed=seed,
                paper_faithful=paper_faithful,
            )
        else:
            parts = leave_one_out(encoded.log)
        bar.update()
        kept_users = np.zeros(encoded.log.num_users, dtype=bool)
        for part in (parts.train, parts.validation, parts.test):
            kept_users[part.users] = True
        counts = flat.count(parts.train.items, encoded.log.num_items)[parts.catalogue]
        summary: dict[str, Any] = {
            "strategy": strategy,
            "test_fraction": test_fraction if strategy == "temporal" else None,
            "validation_users": validation_users if strategy == "temporal" else None,
            "min_item_count": fewest_items,
            "min_user_count": fewest_users,
            "seed": seed,
            "filter_seen": filter_seen,
            "paper_faithful": paper_faithful,
            **_facts(encoded, parts, kept_users),
        }
        dense_user, dense_item = _dense(kept_users), _dense(parts.catalogue)
        (out / "sequences").mkdir()
        for name in ("train", "validation", "test", "untargeted"):
            found: Histories | None = getattr(parts, name)
            if found is not None:
                part = _renumber(found, dense_user, dense_item)
                _write_histories(part, out, name)
                summary[name] = _describe(part, counts, filter_seen=filter_seen)
            bar.update()
        _write_names(encoded, kept_users, parts, counts, out)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        bar.update()
    return summary


def _check_folder(out: Path) -> None:
    """Refuses a folder that is none, or that holds something."""
    if not out.is_dir():
        raise DataError(f"out {out} is no folder; allowed: an existing, empty one")
    found = sorted(path.name for path in out.iterdir())
    if found:
        raise DataError(f"out {out} already holds {found[0]!r}; allowed: an existing, empty folder")


def _check_arguments(
    strategy: str,
    test_fraction: float,
    validation_users: float,
    min_item_count: int | str | None,
    min_user_count: int | str | None,
) -> tuple[int | None, int | None]:
    """Refuses arguments out of range; returns the two counts with "auto" resolved."""
    if strategy not in STRATEGIES:
        raise DataError(f"split.strategy {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    if not 0 < test_fraction < 1:
        raise DataError(f"split.test_fraction {test_fraction}; allowed: above 0 and below 1")
    if not 0 <= validation_users < 1:
        raise DataError(f"split.validation_users {validation_users}; allowed: from 0 on and below 1")
    resolved = []
    given = {"min_item_count": min_item_count, "min_user_count": min_user_count}
    for (key, value), auto in zip(given.items(), AUTO_COUNTS[strategy], strict=True):
        if value == "auto":
            resolved.append(auto)
        elif value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            resolved.append(value)
        else:
            raise DataError(f"split.{key} {value!r}; allowed: an integer of at least 1, auto, or null for none")
    return resolved[0], resolved[1]


def _facts(encoded: Encoded, parts: Parts, kept_users: Mask) -> dict[str, Any]:
    """What the summary says about the log as a whole."""
    log = encoded.log
    return {
        "timestamp_unit": unit_of(int(log.times.max())),
        "boundary_time": parts.boundary_time,
        "users": int(kept_users.sum()),
        "items": int(parts.catalogue.sum()),
        "log": encoded.raw,
        "filtered": {
            "users": log.num_users,
            "items": int(np.count_nonzero(flat.mark(log.items, log.num_items))),
            "interactions": len(log.items),
        },
        "dropped": {**encoded.dropped, **parts.dropped},
    }


def _refuse_trivial(encoded: Encoded) -> None:
    for what, names in (("user", encoded.user_names), ("item", encoded.item_names)):
        if len(names) < 2:
            raise DataError(
                f"the log has one {what} left after filtering ({names[0]!r}); at least two are needed "
                f"(the log had {encoded.raw[what + 's']})"
            )


def _dense(kept: Mask) -> Int32s:
    """New ids of the kept ones, in their order; -1 for the others."""
    ids = np.cumsum(kept, dtype=np.int32) - 1
    ids[~kept] = -1
    return ids


def _renumber(part: Histories, dense_user: Int32s, dense_item: Int32s) -> Histories:
    targets = None if part.targets is None else dense_item[part.targets]
    items = flat.lookup(dense_item, part.items)
    return Histories(dense_user[part.users], part.offsets, items, part.times, targets)


def _describe(part: Histories, counts: Int64s, *, filter_seen: bool) -> dict[str, int]:
    """Sizes of a part; for evaluation also the targets that no model can hit."""
    facts = {"users": len(part.users), "interactions": len(part.items)}
    if part.targets is None:
        return facts
    matches = part.items == np.repeat(part.targets, part.lengths)
    repeated = flat.count_rows(matches, part.offsets) > 0
    unseen = counts[part.targets] == 0
    facts["targets_already_in_history"] = int(repeated.sum())
    facts["unreachable_targets"] = int(repeated.sum()) if filter_seen else 0
    facts["targets_unseen_in_train"] = int(unseen.sum())
    return facts


def _write_histories(part: Histories, out: Path, name: str) -> None:
    """The store, and its export as parquet, some millions of interactions at a time."""
    write_store(
        out / "sequences" / f"{name}.arrow",
        items=part.items,
        offsets=part.offsets,
        user_ids=part.users,
        targets=part.targets,
    )
    fields = [(USER, pa.int32()), (HISTORY, pa.list_(pa.int32())), (TIMESTAMPS, pa.list_(pa.int64()))]
    if part.targets is not None:
        fields.append((TARGET, pa.int32()))
    schema = pa.schema(fields)
    encoding = dict.fromkeys((USER, f"{TIMESTAMPS}.list.element"), "DELTA_BINARY_PACKED")  # both rise
    with pq.ParquetWriter(
        out / f"{name}.parquet", schema, compression="zstd", use_dictionary=False, column_encoding=encoding
    ) as writer:
        for rows in _chunks(part.offsets):
            begin, end = int(part.offsets[rows.start]), int(part.offsets[rows.stop])
            offsets = to_arrow((part.offsets[rows.start : rows.stop + 1] - begin).astype(np.int32))
            arrays = [
                to_arrow(part.users[rows]),
                pa.ListArray.from_arrays(offsets, to_arrow(part.items[begin:end])),
                pa.ListArray.from_arrays(offsets, to_arrow(part.times[begin:end])),
            ]
            if part.targets is not None:
                arrays.append(to_arrow(part.targets[rows]))
            writer.write_table(pa.table(arrays, schema=schema))


def _chunks(offsets: Int64s) -> list[slice]:
    """Runs of whole users with about ``EXPORT_ROWS`` interactions each."""
    cuts = [0]
    while cuts[-1] < len(offsets) - 1:
        wanted = offsets[cuts[-1]] + EXPORT_ROWS
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(offsets, wanted, side="right")) - 1))
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def _write_names(encoded: Encoded, kept_users: Mask, parts: Parts, counts: Int64s, out: Path) -> None:
    users = encoded.user_names.filter(pl.Series(kept_users))
    items = encoded.item_names.filter(pl.Series(parts.catalogue))
    user_ids, item_ids = np.arange(len(users), dtype=np.int32), np.arange(len(items), dtype=np.int32)
    pl.DataFrame({USER: user_ids, ORIGINAL_ID: users}).write_parquet(out / "users.parquet")
    pl.DataFrame({ITEM: item_ids, ORIGINAL_ID: items, COUNT: counts}).write_parquet(out / "items.parquet")
