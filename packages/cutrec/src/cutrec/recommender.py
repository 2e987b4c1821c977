"""`Recommender`: train on a log, recommend with its ids, save and load; without DVC, git and params.yaml."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cutrec.errors import StageError
from cutrec.outputs import identity, read_json
from cutrec.paths import LOG, log_beside, model_file
from cutrec.recommending import asked, folders, frames
from cutrec.recommending.asked import Asked
from cutrec.recommending.frames import Index
from cutrec.recommending.lists import excluded
from cutrec.recommending.log_form import ARGUMENTS, LogForm
from cutrec.recommending.log_users import LogUsers
from cutrec.recommending.ranker import Ranker
from cutrec.workflow.ranking import load_encoder
from cutrec.workflow.recommend import choose_device
from cutrec.workflow.recommendations import list_table
from rec_data.sequences.store import SequenceStore
from rec_data.stated import stated_as
from rec_models.training.devices import usable_device

Frame = Any
"""A data frame of pandas, polars or pyarrow."""
Library = Literal["pandas", "polars", "pyarrow"]


class Recommender:
    """A trained model that is used with the ids of its log.

    `fit` trains one and `load` reads one. The functions of `cutrec.workflow` do the work, as in the pipeline, so equal
    settings give equal lists.

    Wrong arguments raise a ``ValueError`` of one line: what was found, and what is allowed.
    """

    def __init__(self, folder: Path, form: LogForm, *, log: Path | None, device: str = "auto") -> None:
        """Use `fit` or `load`. `folder` holds a model and items.parquet, `log` the histories of the users."""
        self._folder, self._form, self._log = folder, form, log
        self._files = identity(folder)
        where = choose_device("auto") if device == "auto" else usable_device(device)
        self._model = model_file(folder)
        self.encoder, items = load_encoder(self._model, folder / "items.parquet", where)
        """The network, in eval mode."""
        self._items = Index(items.names)
        batch_users = form.config.evaluate.batch_users
        self.ranker = Ranker(self.encoder, self._items, folder, batch_users=batch_users, item_type=form.item_type)
        """What ranks, by dense ids and without data frames."""
        self._card: str | None = None  # the one with the metrics of `evaluate`

    def __repr__(self) -> str:
        """Name the model and the sizes."""
        network = self.encoder.settings
        return f"Recommender({network.model}, {len(self._items.names):,} items, on {self.encoder.item_table.device})"

    @classmethod
    @stated_as(ARGUMENTS)
    def fit(
        cls,
        log: str | Path | Frame,
        *,
        columns: Mapping[str, str | int | None] | None = None,
        out: str | Path | None = None,
        **settings: Any,
    ) -> Recommender:
        """Train on a log, as the stages download, split and train do.

        The split holds out the latest events to choose the best epoch and to measure accuracy (`metrics`, `evaluate`).
        Lists follow the whole histories all the same.

        Args:
            log: one event per row. A pandas or polars data frame, a pyarrow table, or what ``dataset`` of params.yaml
                takes: a path, a folder, a glob or an address of CSV or parquet files, or the name of a data set.
            columns: the names of the columns ``user``, ``item``, ``timestamp`` and ``rating``. The defaults are
                ``user_id``, ``item_id``, ``timestamp`` and none. Timestamp None: the rows are in order.
            out: the folder for ``download/``, ``split/`` and ``train/``, as in ``data/`` of a checkout. If a training
                there is interrupted, the next `fit` resumes it. None: a temporary folder, removed with the object.
            settings: keys of params.yaml: ``loss="cce"``, and sections as dicts: ``train={"max_epochs": 3}``. Presets
                and rows of the paper's tables are names of a checkout's params.yaml, so they are not taken.

        Raises:
            ValueError: the log, a column or a setting is wrong, or training failed.
        """
        form = LogForm.of(log, columns, settings)
        with folders.kept_with(out) as (folder, keep):
            folders.run_stages(log, form, folder)
            return keep(cls(folder / "train", form, log=folder / "download" / LOG.name))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Recommender:
        """Load what `save`, `fit` or the stage train wrote: ``Recommender.load("data/train")``.

        Histories for ``recommend(users=...)`` are those that were saved, or those of ``download/log.parquet`` beside
        the folder, as in a checkout. They are read when they are first asked for.

        Args:
            folder: one with ``model.safetensors`` (or ``model.ckpt`` of version 0.1), ``items.parquet`` and their
                checksums, or the ``out`` of `fit`; or the file of the model in it.
            device: where to rank. ``auto`` takes a GPU if there is one.

        Raises:
            ValueError: there is no model, a file is damaged, or the items are not those of the model.
        """
        place = folders.of_model(Path(folder))
        return cls(place, LogForm.beside(place), log=log_beside(place), device=device)

    def save(self, folder: str | Path, *, histories: bool = False) -> None:
        """Write the model, the ids of its items, its metrics, its curves and their checksums into a folder for `load`.

        The model card there, ``README.md``, has the metrics of the test and their intervals after `evaluate`.

        Args:
            folder: it is new or empty, or holds a model that was saved there before, which is replaced.
            histories: also write ``log.parquet``, the events of all users, for ``recommend(users=...)`` after `load`.

        Raises:
            ValueError: the folder holds other files, another process replaced the model since it was loaded, or there
                are no histories.
        """
        if histories and self._log is None:
            raise StageError(f"histories: found True, but there is no log beside {self._folder}, allowed: False")
        log = self._log if histories else None
        folders.save(self._folder, self._files, self._form, Path(folder), log=log, card=self._card)

    @stated_as(ARGUMENTS)
    def update(
        self,
        log: str | Path | Frame,
        *,
        columns: Mapping[str, str | int | None] | None = None,
        out: str | Path | None = None,
        **settings: Any,
    ) -> Recommender:
        """Train further on the events of new days; ids of items keep their places, and new items follow them.

        This object stays as it is. Events that are not later than the model's log are skipped with a note. Without new
        events the result has the same model, bit for bit.

        Args:
            log: the new events, as for `fit`; the model's log is beside it, as for `load`.
            columns: as for `fit`; the defaults are those of the model's log.
            out: the folder for ``download/``, ``split/`` and ``train/``; the one of this model is replaced as a whole.
                None: a temporary folder, removed with the new object.
            settings: as for `fit`; the defaults are those of the model, for a short training.

        Raises:
            ValueError: the events or a setting are wrong, none is left to train or validate on, there is no log beside
                the model, another process replaced the model, or training failed.
        """
        later = self._form.of_new_days(log, columns, settings)
        with folders.kept_with(out) as (folder, keep):
            if identity(self._folder) != self._files:
                raise StageError(f"{self._folder}: found that it was written since it was loaded; load it again")
            folders.run_update(log, self._form, later, self._folder, folder, folder / ".checkpoints")
            return keep(Recommender.load(folder))

    @property
    def metrics(self) -> dict[str, Any]:
        """What training measured: ``validation_ndcg@10``, ``best_epoch``, ``epoch_seconds`` and more."""
        path = self._folder / "metrics.json"
        return read_json(path) if path.is_file() else {}

    @stated_as(ARGUMENTS)
    def evaluate(self) -> dict[str, Any]:
        """Measure the lists of the users that the split held out, beside the ranking by popularity, as the stage does.

        Returns:
            ``ndcg@10``, ``recall@10`` and more, and the same under ``popularity``; with the diversity of lists if
            ``report={"item_names": FILE}`` was given to `fit` and the file has a column ``group``.

        Raises:
            ValueError: the split is not there: after `load`, only ``out`` of `fit` and a checkout have one; or the
                file of ``report.item_names`` cannot be read.
        """
        from cutrec.workflow.evaluate import evaluate

        split = self._folder.parent / "split"
        if not (split / "summary.json").is_file():
            raise StageError(f"evaluate: found no {split}, allowed: after fit, or with the out of fit loaded")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "evaluate"
            evaluate(self._form.config, split, self._model, out, root=Path())
            self._card = folders.card(self._folder, self._form.config, split, out / "details")
            return read_json(out / "metrics.json")

    def recommend(
        self,
        users: Any = None,
        *,
        histories: Mapping[Any, Any] | Iterable[Any] | Frame | None = None,
        k: int = 10,
        filter_seen: bool = True,
        candidates: Any = None,
        exclude: Any = None,
        fallback: Literal["popularity"] | None = None,
        frame: Library | None = None,
    ) -> Frame:
        """The k best items for each user, from the exact ranking of the whole catalogue.

        Args:
            users: ids of users of the log, or a single one. Without ``users`` and ``histories``: all users of the log.
            histories: in place of ``users``: a dict or a pandas Series of a list of items for each user, oldest first;
                a list of such lists, whose users are then 0, 1, 2, ...; or a data frame of events with the columns of
                the log, where the column of times may be missing if the rows are in order.
            k: items per user, at most the size of the catalogue.
            filter_seen: leave out the items of the user's own history.
            candidates: the only items that may be recommended, such as those in stock.
            exclude: items that must not be recommended; or a dict of such items for each user.
            fallback: ``popularity``: users without a history get the items with the most events in training, and their
                number as the score. None: such users get no list.
            frame: the library of the result: pandas, polars or pyarrow. None: that of the log; polars if it was a file.

        Returns:
            A data frame with the columns of users and items of the log, ``rank`` (int32, from 1) and ``score``
            (float32), in the order of the users. A list is shorter than k if fewer items are left. Ids of a categorical
            column come back as plain values.

        Raises:
            ValueError: an argument is wrong, or there are no histories of users.

        Warns:
            UnknownUsersWarning: users without a history, in ``ids``.
            UnknownItemsWarning: unknown items of ``histories`` or ``candidates``, in ``ids``.
        """
        _check_size(k, len(self._items.names), "the size of the catalogue")
        if fallback not in (None, "popularity"):
            raise StageError(f"fallback: found {fallback!r}, allowed: popularity or None")
        found = self._asked(users, histories)
        own = excluded(found, exclude, self._items) if isinstance(exclude, Mapping) else None
        allowed, unknown = asked.allowed_items(candidates, exclude, self._items)
        lists = self.ranker.recommend(
            found,
            k,
            filter_seen=filter_seen,
            excluded=own,
            allowed=allowed,
            by_popularity=found.without_history if fallback else None,
        )
        for warning in [*found.warnings, *unknown]:
            warnings.warn(warning, stacklevel=2)
        table = list_table(np.arange(len(found.users)), *lists, found.users, self._items.names)
        return self._returned(table, [(self._form.user, found.kind), (self._form.item, self._form.item_type)], frame)

    def similar_items(self, items: Any, k: int = 10, *, frame: Library | None = None) -> Frame:
        """The k nearest items of each item: by the cosine of the angle between the vectors of the item table.

        Args:
            items: ids of items of the log, or a single one.
            k: items per item, below the size of the catalogue. The item itself is left out.
            frame: as for `recommend`.

        Returns:
            A data frame with the column of items of the log, the same with the prefix ``similar_``, ``rank`` (int32,
            from 1) and ``score`` (float32, the cosine), in the order of the items.

        Raises:
            ValueError: an argument is wrong.

        Warns:
            UnknownItemsWarning: items that the model does not know, in ``ids``.
        """
        _check_size(k, len(self._items.names) - 1, "the other items of the catalogue")
        ids = frames.to_ids("items", items).unique()
        places = self._items.find(ids)
        for warning in asked.unknown_items("items", ids.filter(pa.array(places < 0))):
            warnings.warn(warning, stacklevel=2)
        known, names = places[places >= 0], self._items.names
        table = list_table(known, *self.ranker.similar(known, k), names, names)
        kind = self._form.item_type
        return self._returned(table, [(self._form.item, kind), (f"similar_{self._form.item}", kind)], frame)

    def some_histories(self, number: int) -> SequenceStore:
        """The histories of at most so many users of the log, drawn at random and the same each time.

        Raises:
            ValueError: there is no log.
        """
        return self._users.some(number).store

    @cached_property
    def _users(self) -> LogUsers:
        """The users of the log; read once."""
        if self._log is None:
            cure = "histories=..., or a model that was saved with save(folder, histories=True)"
            raise StageError(f"users: found no log beside {self._folder}, allowed: {cure}")
        return LogUsers.read(self._log, self._items, self._form, model=self._model, trained_with=self.encoder.log)

    def _asked(self, users: Any, histories: Any) -> Asked:
        if users is not None and histories is not None:
            raise StageError("histories: found it beside users, allowed: one of the two")
        if histories is None:
            return self._users.everybody() if users is None else self._users.of(users)
        if frames.kind_of(histories) is not None:
            return asked.events(histories, self._items, self._form)
        return asked.lists(histories, self._items)

    def _returned(self, table: pa.Table, ids: list[tuple[str, str | None]], frame: Library | None) -> Frame:
        """A table of `list_table` with the names and the types of the caller, as the caller's kind of frame."""
        columns = [frames.cast_like(column, kind) for column, (_, kind) in zip(table.columns, ids, strict=False)]
        named = pa.table([*columns, *table.columns[2:]], names=[*(name for name, _ in ids), "rank", "score"])
        return frames.from_arrow(named, frame or self._form.frame)


def _check_size(k: int, most: int, meaning: str) -> None:
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= most:
        raise StageError(f"k: found {k!r}, allowed: 1 to {most}, {meaning}")
