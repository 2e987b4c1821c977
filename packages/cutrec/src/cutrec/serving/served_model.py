"""The model that a server answers with: requests in the ids of the log to lists in the same ids.

Requests that wait at the same moment are ranked in one call, by the functions of `cutrec.Recommender`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cutrec.errors import StageError
from cutrec.recommender import Recommender
from cutrec.recommending import frames
from cutrec.recommending.asked import Asked
from cutrec.recommending.item_index import ItemIndex
from cutrec.recommending.lists import Excluded, Lists
from cutrec.recommending.ranker import Ranker
from cutrec.serving.schema import Recommend, Similar
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.sequences.store import SequenceStore

Answer = dict[str, Any]
"""What is sent as JSON."""


class Places:
    """Ids of a request: the dense ids of the known ones, and the others."""

    def __init__(self, name: str, ids: Sequence[int | str], items: frames.Index) -> None:
        values = list(map(str, ids)) if len(set(map(type, ids))) > 1 else ids
        places = items.find(frames.to_ids(name, values)) if ids else np.empty(0, dtype=np.int32)
        self.known: Int32s = places[places >= 0]
        self.unknown = list(dict.fromkeys(ids[place] for place in np.flatnonzero(places < 0).tolist()))


class ServedModel:
    """A loaded model, ready to rank.

    Args:
        folder: as of `Recommender.load`.
        device: as of `Recommender.load`.
        index: a folder that ``cutrec index`` wrote; None: rank the whole catalogue.

    Raises:
        ValueError: there is no model or no index, a file is damaged, or the index is of another model.
    """

    def __init__(self, folder: Path, *, device: str, index: Path | None = None) -> None:
        # The files of one model, even if the folder is a link that another process changes (cutrec promote).
        self.ranker: Ranker = Recommender.load(folder.resolve(), device=device).ranker
        if index is not None:
            if self.ranker.encoder.item_table.is_cuda:
                raise StageError("--index: found one with a GPU, allowed: with --device cpu")
            self.ranker.index = ItemIndex.load(index, self.ranker.hash)
        self.hash = self.ranker.hash[:12]
        first = self.ranker.items.names[:1].to_pylist()  # the first request must not wait for what is made once
        self.answer([Recommend(history=first, k=1, fallback="popularity"), Similar(items=first, k=1)])

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.ranker.items.names)

    @property
    def index(self) -> dict[str, Any] | None:
        """What was measured of the index, or None without one."""
        names = ("k", "recall", "histories")
        return None if self.ranker.index is None else {name: self.ranker.index.facts[name] for name in names}

    def answer(self, requests: Sequence[Recommend | Similar]) -> list[Answer | Exception]:
        """An answer to each request, or the error that is sent in its place."""
        answers: list[Answer | Exception] = [StageError("")] * len(requests)
        work: list[_Work] = []
        for number, request in enumerate(requests):
            try:
                if isinstance(request, Similar):
                    answers[number] = self._similar(request)
                else:
                    refuse_above(self.num_items, request.k)
                    work.append(_Work(number, request, self.ranker.items))
            except Exception as error:
                answers[number] = error
        for _, group in groupby(sorted(work, key=_Work.group), key=_Work.group):
            together = list(group)
            for one, answer in zip(together, self._recommended(together), strict=True):
                answers[one.number] = answer
        return answers

    def _recommended(self, work: Sequence[_Work]) -> list[Answer | Exception]:
        """Lists for some requests; if that fails, for each alone, so that one fails and not all."""
        try:
            return [*self._recommend(work)]
        except Exception as error:
            return [error] if len(work) == 1 else [answer for one in work for answer in self._recommended([one])]

    def _recommend(self, work: Sequence[_Work]) -> list[Answer]:
        """Lists for requests without candidates, or for one that has some."""
        k = max(one.request.k for one in work)
        lists = self.ranker.recommend(
            _asked(work),
            k,
            filter_seen=False,  # excluded has the seen items of those who want that
            excluded=_excluded(work),
            allowed=work[0].allowed,
            by_popularity=np.array([row for row, one in enumerate(work) if one.by_popularity], dtype=np.int32),
        )
        listed = self._listed(lists, [one.request.k for one in work])
        return [
            {**answer, "unknown": one.unknown, "model": self.hash} for one, answer in zip(work, listed, strict=True)
        ]

    def _similar(self, request: Similar) -> Answer:
        places = Places("items", request.items, self.ranker.items)
        known = np.array(list(dict.fromkeys(places.known.tolist())), dtype=np.int32)
        refuse_above(self.num_items - 1, request.k, "the number of other items")
        lists = self.ranker.similar(known, request.k)
        rows = zip(self._original(known), self._listed(lists, [request.k] * len(known)), strict=True)
        neighbors = [{"item": item, **listed} for item, listed in rows]
        return {"neighbors": neighbors, "unknown": places.unknown, "model": self.hash}

    def _listed(self, lists: Lists, sizes: Sequence[int]) -> Iterator[Answer]:
        """Lists of dense ids as lists of original ids of at most these sizes, without empty places at their ends."""
        present = lists.ids >= 0
        names, start = self._original(lists.ids[present]), 0  # of all lists at once
        for size, full, scores in zip(sizes, present.sum(axis=1).tolist(), lists.scores, strict=True):
            end = min(size, full)
            yield {"items": names[start : start + end], "scores": scores[:end].tolist()}
            start += full

    def _original(self, ids: Int32s | Int64s) -> list[int | str]:
        found: list[int | str] = self.ranker.original(ids).to_pylist()
        return found


def refuse_above(most: int, k: int, meaning: str = "the number of items") -> None:
    """Refuse a list that is longer than the items there are, as `Recommender` does."""
    if k > most:
        raise StageError(f"k: found {k}, allowed: 1 to {most}, {meaning}")


class _Work:
    """A request for a list, with dense ids."""

    def __init__(self, number: int, request: Recommend, items: frames.Index) -> None:
        self.number, self.request = number, request
        history, exclude = Places("history", request.history, items), Places("exclude", request.exclude, items)
        self.history = history.known
        self.hidden = np.concatenate([history.known, exclude.known]) if request.filter_seen else exclude.known
        self.by_popularity = request.fallback is not None and len(self.history) == 0
        self.unknown = {"history": history.unknown, "exclude": exclude.unknown, "candidates": []}
        self.allowed: Mask | None = None
        if request.candidates is not None:
            candidates = Places("candidates", request.candidates, items)
            self.allowed = items.mark(candidates.known)
            self.unknown["candidates"] = candidates.unknown

    def group(self) -> int:
        """Requests with equal numbers are ranked together: all those without candidates."""
        return -1 if self.allowed is None else self.number


def _asked(work: Sequence[_Work]) -> Asked:
    lengths = np.array([len(one.history) for one in work])
    own = np.flatnonzero(lengths)
    store = SequenceStore(
        items=torch.from_numpy(np.concatenate([one.history for one in work])),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[own])])),
        user_ids=torch.from_numpy(own.astype(np.int32)),
    )
    return Asked(pa.array(range(len(work)), pa.int64()), store, None, [])


def _excluded(work: Sequence[_Work]) -> Excluded:
    rows = np.repeat(np.arange(len(work)), [len(one.hidden) for one in work])
    return Excluded(rows, np.concatenate([one.hidden for one in work]).astype(np.int64))
