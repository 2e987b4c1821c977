"""The users of a model's log, with their histories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cutrec.recommending import frames
from cutrec.recommending.asked import Asked, without
from cutrec.recommending.frames import Index
from cutrec.recommending.log_form import LogForm
from cutrec.workflow.recommend import read_log
from rec_data.sequences.gather import Gather
from rec_data.sequences.histories import Histories
from rec_data.sequences.store import SequenceStore


class LogUsers:
    """Users by their ids in the log."""

    def __init__(self, log: Histories, kind: str | None) -> None:
        self._store, self._kind = log.store, kind
        self._index = Index(log.user_names)

    @classmethod
    def read(cls, log: Path, items: Index, form: LogForm, *, model: Path, trained_with: str | None) -> LogUsers:
        """Read a log, and print a note if the model was trained with another one.

        Raises:
            StageError: the log is damaged, or another process replaced it while it was read.
        """
        download = form.config.download
        found, notes = read_log(
            log,
            items.names,
            model=model,
            trained_with=trained_with,
            tie_seed=download.tie_seed(form.config.seed),
            users=None,
        )
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        return cls(found, form.user_type)

    def everybody(self) -> Asked:
        """All who have a history."""
        users = self._index.names.take(pa.array(self._store.user_ids.numpy()))
        own = torch.arange(len(users), dtype=torch.int32)
        return Asked(users, SequenceStore(self._store.items, self._store.offsets, own), self._kind, [])

    def some(self, number: int) -> Asked:
        """At most so many of them, drawn at random and the same each time."""
        drawn = np.random.default_rng(0).permutation(len(self._store))[:number]
        return self.of(self._index.names.take(pa.array(self._store.user_ids.numpy()[drawn])))

    def of(self, users: Any) -> Asked:
        """These users, and one warning if some of them have no history in the log."""
        asked = frames.to_ids("users", users).unique()
        rows = np.full(len(self._index.names), -1)
        rows[self._store.user_ids.numpy()] = np.arange(len(self._store))
        places = self._index.find(asked)  # [n]
        found = np.where(places >= 0, rows[places], -1) if len(rows) else places
        own = np.flatnonzero(found >= 0)
        chosen, offsets = found[own], self._store.offsets.numpy()
        gather = Gather([self._store.items], torch.device("cpu"))
        items, ends = gather(offsets[chosen], offsets[chosen + 1] - offsets[chosen])
        store = SequenceStore(items.int(), ends, torch.from_numpy(own.astype(np.int32)))
        return Asked(asked, store, self._kind, without("users", asked, store, absent=int((places < 0).sum())))
