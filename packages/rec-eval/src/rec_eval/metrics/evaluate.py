"""Evaluate recommended lists: every metric at every k, per user and on average."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.metrics.accuracy import ACCURACY
from rec_eval.metrics.beyond_accuracy import Reference, coverage, surprisal
from rec_eval.metrics.hits import Floats, Relevant, check_recommended, find_hits


# Tables of named tuples as CSV files.
def write_rows(rows: Sequence[NamedTuple], path: str | Path) -> None:
    """Write named tuples of one kind as CSV with a header line.

    Args:
        rows: at least one; the names of their fields are the header.
        path: the file.

    Raises:
        ValueError: there are no rows, so the header is unknown.
    """
    if not rows:
        raise ValueError(f"no rows to write to {path}")
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)


class Row(NamedTuple):
    """One line of the table of results."""

    metric: str
    k: int
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Results of one run. Users without relevant items are NaN in the accuracy metrics and left out of their means."""

    ks: tuple[int, ...]
    """Lengths of the lists, ascending."""
    per_user: dict[str, Floats]
    """[U] float64 by "metric@k": the accuracy metrics, and surprisal if there was a reference log."""
    catalogue: dict[str, float]
    """Metrics of all lists together by "metric@k": coverage, if there was a reference log."""
    num_users: int
    """U, users with a list."""
    num_without_relevant: int
    """Users of these without any relevant item."""
    num_relevant_outside: int
    """Relevant items outside the catalogue: no list can hold them, so they count as misses."""
    user_ids: npt.NDArray[Any] | None = None
    """[U] names of the rows, or None: two runs with names are only compared if these agree."""

    def summary(self) -> dict[str, float]:
        """Means over users, and catalogue metrics, as ``{"ndcg@1": ..., ..., "surprisal@100": ...}``."""
        return {f"{row.metric}@{row.k}": row.value for row in self.table()}

    def table(self) -> list[Row]:
        """The summary as (metric, k, value), metric by metric, k ascending."""
        means = {name: float(np.nanmean(values)) for name, values in self.per_user.items()}
        values = {**means, **self.catalogue}
        return [
            Row(metric, k, values[f"{metric}@{k}"])
            for metric in (*ACCURACY, "coverage", "surprisal")
            for k in self.ks
            if f"{metric}@{k}" in values
        ]

    def write_csv(self, path: str | Path) -> None:
        """Write the table to ``path`` as CSV with a header line (metric, k, value)."""
        write_rows(self.table(), path)


def evaluate(
    recommended: Any,
    relevant: Relevant,
    ks: Sequence[int],
    reference: Reference | None = None,
    *,
    num_items: int | None = None,
    user_ids: Any = None,
) -> Evaluation:
    """Compute every accuracy metric at each k, and with a reference log Coverage and Surprisal.

    Args:
        recommended: ``[U, K]`` integer ids, best first, as an array or tensor; -1 marks an empty place and is a miss.
        relevant: ``[U]`` ids, one for each user, or a pair (offsets ``[U + 1]``, items ``[nnz]``) with any number for
            each; repeats count once. A relevant item outside the catalogue stays and counts as a miss; the result says
            how many.
        ks: lengths to cut the lists at, from 1 to K; repeats are dropped.
        reference: the log for Coverage and Surprisal, or None to leave these out.
        num_items: V, to check ids against; taken from the reference if there is one.
        user_ids: ``[U]`` names of the rows, kept in the result, or None.

    Returns:
        Values per user and their means.

    Raises:
        ValueError: an item twice in one list, an id outside the catalogue, a k below 1 or above K, rows that do not
            fit, or no user with a relevant item.
    """
    if reference is not None:
        if num_items is not None and num_items != reference.user_counts.size:
            raise ValueError(f"num_items is {num_items}, the reference log has {reference.user_counts.size} items")
        num_items = reference.user_counts.size
    lists = check_recommended(recommended, num_items)
    if user_ids is not None:
        user_ids = np.asarray(user_ids.cpu() if hasattr(user_ids, "cpu") else user_ids)
        if user_ids.shape != lists.shape[:1]:
            raise ValueError(f"user_ids must name each of the {lists.shape[0]} users, got shape {user_ids.shape}")
    cuts = tuple(sorted(set(ks)))
    if not cuts or cuts[0] < 1 or cuts[-1] > lists.shape[1]:
        raise ValueError(f"ks must lie between 1 and the {lists.shape[1]} places of the lists, got {list(ks)}")
    hits = find_hits(lists, relevant, num_items)
    without = int((hits.relevant == 0).sum())
    if without == lists.shape[0]:
        raise ValueError("relevant is empty for every user: there is nothing to measure")
    per_user = {f"{name}@{k}": metric(hits, k) for name, metric in ACCURACY.items() for k in cuts}
    catalogue: dict[str, float] = {}
    if reference is not None:
        catalogue = {f"coverage@{k}": value for k, value in coverage(lists, reference, cuts).items()}
        per_user |= {f"surprisal@{k}": values for k, values in surprisal(lists, reference, cuts).items()}
    return Evaluation(cuts, per_user, catalogue, lists.shape[0], without, hits.outside, user_ids)
