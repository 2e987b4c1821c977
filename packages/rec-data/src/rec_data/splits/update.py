"""The split for training a model further on new days: its items keep their ids, and the new days validate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rec_data import arrays
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.sequences.parts import count_rows
from rec_data.splits.bounded import parts_of, require_one_part
from rec_data.splits.clock import as_date
from rec_data.splits.decide import choose_users
from rec_data.splits.encode import encode
from rec_data.splits.targets import TargetRule, gather, hold_out
from rec_data.splits.write import dense_ids, describe_subset, renumber, write_histories, write_names
from rec_data.stated import stated

TARGETS = 2000
"""About how many targets validate at most; each needs a history of its own."""


def split_update(
    log: Path, catalogue: Path, out: Path, settings: Split, *, new_from: int, seed: int, tie_seed: int | None
) -> dict[str, Any]:
    """Write train and validation for a model that knows a catalogue and the events before a moment.

    All items of the catalogue keep their ids, also those that have become rare. New items that pass the filter follow
    them. A share of the users with new events validates: each of their new events is a target (of more than `TARGETS`,
    a sample), with all events before it as input. All other events train, those before the moment too: they are the
    histories of the new ones, and what the model must not forget.

    Args:
        log: The parquet file of ``fetch_log``, or of ``append_events``.
        catalogue: The model's ``items.parquet``.
        out: An existing, empty folder for ids, ``train`` and ``validation``, and ``summary.json``.
        settings: The filters, ``validation_users`` (a share of the users with new events) and ``test_until``.
        new_from: The moment, in the log's unit of time.
        seed: Seed of the choice of validation users.
        tie_seed: Seed of the order of a user's interactions with equal times (``Download.tie_seed``).

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        DataError: A file is missing or damaged, the log is too large for one part, or no new event is left to train or
            validate on.
    """
    require_one_part(parts_of(count_rows(log), settings.memory_bytes), settings, "an update")
    known = read_ids(catalogue)
    fewest_items, fewest_users = settings.min_counts("temporal")
    encoded = encode(
        log,
        min_item_count=fewest_items,
        min_user_count=fewest_users,
        tie_seed=tie_seed,
        until=settings.test_until,
        catalogue=known.names,
    )
    rows = encoded.log
    new = rows.times >= new_from
    if not new.any():
        raise DataError(
            f"found no event from {as_date(new_from)} on that is left: all are on new items with fewer than "
            f"{fewest_items or 1} events, or of users with fewer than {fewest_users or 1}; allowed: more new days, or "
            f"{stated({'split.min_item_count': 1, 'split.min_user_count': 1})}"
        )
    continuing = np.flatnonzero((arrays.count_rows(new, rows.offsets) > 0) & (np.diff(rows.offsets) > 1))
    validating = np.zeros(rows.num_users, dtype=bool)
    if continuing.size:
        validating[choose_users(continuing, settings.validation_users, seed)] = True
    held_out = new & arrays.spread(validating, rows.offsets)
    train = gather(rows, ~held_out)
    kept_items = arrays.mark(train.items, rows.num_items)
    kept_items[: len(known.names)] = True
    usable = arrays.lookup(kept_items, rows.items)
    candidates = held_out & usable
    if (number := int(np.count_nonzero(candidates))) > TARGETS:  # validation costs more than an epoch otherwise
        candidates &= np.random.default_rng(seed).random(len(candidates)) < TARGETS / number
    validation, _ = hold_out(rows, usable, candidates, TargetRule("successive"))
    fresh = int(np.count_nonzero(train.times >= new_from))
    if validation.users.size == 0 or fresh == 0:
        raise DataError(
            f"found {np.count_nonzero(new)} new events of {len(continuing)} users with a history, which leaves none to "
            f"{'train' if fresh == 0 else 'validate'} on; allowed: more new days, or another split.validation_users "
            f"than {settings.validation_users:g}"
        )
    kept_users = arrays.mark(np.concatenate([train.users, validation.users]), rows.num_users)
    dense_user, dense_item = dense_ids(kept_users), dense_ids(kept_items)
    counts = arrays.count(train.items, rows.num_items)[kept_items]
    users, items = encoded.user_names.filter(pl.Series(kept_users)), encoded.item_names.filter(pl.Series(kept_items))
    hashes = write_names(users, items, counts, out)
    summary: dict[str, Any] = {
        "strategy": "update",
        "new_from": new_from,
        "test_until": settings.test_until,
        "validation_by": "new events",
        "validation_users": settings.validation_users,
        "min_item_count": fewest_items,
        "min_user_count": fewest_users,
        "seed": seed,
        "timestamp_unit": encoded.unit,
        "first_time": int(rows.times.min()),
        "last_time": int(rows.times.max()),
        "clock": True,
        "users": len(users),
        "items": len(items),
        "new_items": len(items) - len(known.names),
        "items_without_events": int(np.count_nonzero(counts[: len(known.names)] == 0)),
        "new_events": fresh,
        "log": encoded.raw,
        "filtered": {
            "users": rows.num_users,
            "items": int(np.count_nonzero(arrays.mark(rows.items, rows.num_items))),
            "interactions": len(rows.items),
        },
        "dropped": encoded.dropped,
    }
    (out / "sequences").mkdir()
    for name, subset in (("train", train), ("validation", validation)):
        subset = renumber(subset, dense_user, dense_item)
        write_histories(subset, out, name, hashes)
        summary[name] = describe_subset(subset, counts, filter_seen=False)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
