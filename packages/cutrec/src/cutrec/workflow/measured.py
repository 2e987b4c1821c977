"""The metrics of the test users, part by part of a split: those of all parts are those of one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from cutrec.checksums import stage_errors, verified
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.reporting.details import Rankings, example, example_rows
from cutrec.stores import read_stores, subset_tables
from rec_data import arrays
from rec_data.ids import Ids
from rec_data.sequences.store import SequenceStore
from rec_data.splits.recency import days_since_last
from rec_eval import (
    Baseline,
    Evaluation,
    LogCounts,
    ShownItems,
    coverage,
    evaluate,
    join_evaluations,
    popularity_top_k,
)

RANKINGS = ("model", "popularity")


class Measured:
    """The metrics of the model's lists and of the ranking by popularity, to which parts of the lists are added.

    In memory are a part, and of each list its metrics: 8 bytes per metric, k and ranking.
    """

    def __init__(
        self,
        config: Config,
        split: Path,
        order: npt.NDArray[np.int64],
        users: pa.Array,
        items: Ids,
        hashes: Mapping[str, str],
        groups: arrays.Int64s | None,
    ) -> None:
        """Count the items of training, and of the reference.

        Args:
            config: the point.
            split: the folder of the split.
            order: ``[L]`` places of the lists in the parts, one part after the other, in order of their users.
            users: original ids by dense id.
            items: of the catalogue.
            hashes: of the ids, which the stores must have.
            groups: ``[V]`` the group of each item; None without groups.

        Raises:
            StageError: a file is missing or damaged, or there is only one user to count items in.
        """
        self._config, self._users, self._items, self._groups = config, users, items.names, groups
        self._counts = np.zeros(len(items.names), dtype=np.int64)  # [V]
        for store in read_stores(split, "train", hashes=hashes):
            self._counts += arrays.count(store.items.numpy(), len(self._counts))
        self._reference = reference_log(config, split, len(self._counts), hashes)
        verified(split / "summary.json")
        tables = subset_tables(split, "test")
        with stage_errors(split):
            days = [days_since_last(table, split / "summary.json") for table in tables]
        self._days = None if days[0] is None else np.concatenate([each for each in days if each is not None])
        self._order = order
        self._shown = {name: ShownItems.none(config.evaluate.k, len(self._counts)) for name in RANKINGS}
        self._parts: dict[str, list[Evaluation]] = {name: [] for name in RANKINGS}
        self._targets: list[npt.NDArray[Any]] = []
        self._lengths: list[npt.NDArray[Any]] = []
        self._examples: dict[int, dict[str, Any]] = {place: {} for place in order[example_rows(len(order))].tolist()}
        self._done = 0

    def add(self, store: SequenceStore, recommended: npt.NDArray[np.int32]) -> None:
        """Measure the model's lists ``[u, K]`` for a part of the test users, and the ranking by popularity."""
        assert store.targets is not None
        targets, filter_seen = store.targets.numpy(), self._config.evaluate.filter_seen
        seen = {"seen_offsets": store.offsets, "seen_items": store.items} if filter_seen else {}
        popular = popularity_top_k(torch.tensor(self._counts), recommended.shape[1], num_users=len(store), **seen)
        lists = {"model": recommended, "popularity": popular.ids.numpy().astype(np.int32)}
        baseline = Baseline(lists["popularity"], self._counts)
        for name, ids in lists.items():
            found = evaluate(
                ids,
                targets,
                self._config.evaluate.k,
                self._reference,
                baseline=baseline,
                history=None if filter_seen else (store.offsets, store.items),  # else every item is new
                groups=self._groups,
            )
            self._parts[name].append(found)
            self._shown[name].add(ids)
        self._targets.append(targets.copy())
        self._lengths.append(store.lengths.numpy())
        for place in [place for place in self._examples if 0 <= place - self._done < len(store)]:
            row = place - self._done
            self._examples[place] = example(
                self._users[int(store.user_ids[row])].as_py(),
                store.items[store.offsets[row] : store.offsets[row + 1]].numpy(),
                int(targets[row]),
                recommended[row],
                counts=self._counts,
                item_names=self._items,
            )
        self._done += len(store)

    def rankings(self, user_ids: npt.NDArray[Any]) -> Rankings:
        """The metrics of all lists in their order, of users with the original ids ``[L]``, after all parts."""
        targets, lengths = (np.concatenate(parts)[self._order] for parts in (self._targets, self._lengths))
        names = self._items.take(pa.array(targets)).to_numpy(zero_copy_only=False)
        results = {}
        for ranking, parts in self._parts.items():
            shares = coverage(self._shown[ranking], self._reference)
            catalogue = {f"coverage@{k}": share for k, share in shares.items()}
            results[ranking] = join_evaluations(parts, self._order, catalogue, user_ids=user_ids, targets=names)
        days = None if self._days is None else self._days[self._order]
        return Rankings(results, self._shown, targets, lengths, self._counts, list(self._examples.values()), days)


def reference_log(config: Config, split: Path, num_items: int, hashes: Mapping[str, str] | None = None) -> LogCounts:
    """The log that Coverage and Surprisal count in, of the ids with these hashes.

    With ``test_input`` the paper also counts the inputs of users with a future who are not tested: ``untargeted``.
    """
    names = ["train"] if config.evaluate.reference == "train" else ["test"]
    if config.paper_faithful and config.evaluate.reference == "test_input" and config.split.strategy == "temporal":
        names.append("untargeted")
    stores = (store for name in names for store in read_stores(split, name, hashes=hashes))
    users = 0

    def logs() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal users
        for store in stores:
            users += len(store)
            yield store.offsets, store.items

    try:
        return LogCounts.from_logs(logs(), num_items)
    except ValueError:
        if users >= 2:
            raise
        found = f"found {users} user in {' and '.join(names)}"
        raise StageError(f"{split}: {found}, allowed: at least 2 (of a larger log)") from None
