"""How a caller's log was given: settings, kind of frame and types of ids. What is returned has the same form."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cutrec.config import NAMES, from_mapping, load, refuse_contradictions
from cutrec.config_point import AUTO, AUTO_KEYS, Config, as_written
from cutrec.decide_update import for_update
from cutrec.errors import StageError
from cutrec.nested import flatten, nest
from cutrec.outputs import read_json
from cutrec.paths import PARAMS
from cutrec.recommending import frames
from rec_data.config import Columns, Download, Format
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import Form, Settings, stated_as

FORM = "recommender.json"
"""The file beside a model with the form of its log."""


@dataclass(frozen=True)
class LogForm:
    """The form of a log."""

    config: Config
    """The settings of the training; its ``dataset`` is a name or a path, or the kind of the frame."""
    frame: str = "polars"
    """The library whose frames are returned unless another one is asked for; that of the log if it was a frame."""
    user_type: str | None = None
    """The Arrow type of the ids in a frame; None: as in ``log.parquet``."""
    item_type: str | None = None
    """The same of items."""

    @classmethod
    def of(cls, log: Any, columns: Mapping[str, str | int | None] | None, settings: Mapping[str, Any]) -> LogForm:
        """The form of a path, a name or a frame, with settings as keys of params.yaml, nested or dotted.

        Raises:
            ValueError: a setting or the log is none that is allowed.
        """
        kind = frames.kind_of(log)
        if kind is None and not isinstance(log, (str, PathLike)):
            found = type(log).__name__
            raise StageError(f"log: found {found}, allowed: a path, or a pandas, polars or pyarrow data frame")
        if not isinstance(columns or {}, Mapping):
            raise StageError(f'columns: found {columns!r}, allowed: a dict such as {{"user": "customer"}}')
        if "dataset" in settings:
            raise StageError("dataset: found it as a setting, allowed: the log as the first argument")
        for key in (*NAMES, "presets", "grid"):
            if key in settings:
                found = f"{key}: found {settings[key]!r}, but presets and rows belong to the params.yaml of a checkout"
                raise StageError(
                    f'{found}; allowed: the settings themselves, such as loss="cce", train={{"patience": 9}}'
                )
        named = {f"download.columns.{key}": name for key, name in (columns or {}).items()}
        stated = flatten(settings)
        for key, name in named.items():
            if stated.get(key, name) != name:
                raise StageError(f"{key}: found {stated[key]!r} with {name!r} in columns, allowed: one of the two")
        given: dict[str, Any] = dict.fromkeys(AUTO_KEYS, AUTO)  # as params.yaml has them
        given |= {"dataset": f"{kind} frame" if kind else fspath(log), **stated, **named}
        config = _with_absolute_names(from_mapping(nest(given)), Path.cwd())
        refuse_contradictions(config)
        if config.train.devices > 1:
            allowed = "1; several devices need processes, which `dvc repro` starts"
            raise StageError(f"train.devices: found {config.train.devices}, allowed here: {allowed}")
        if kind is None:
            return cls(config)
        types = frames.to_arrow("log", log, _columns_of(config.download)).schema
        names = config.download.columns.by_key
        ids = [types.field(names[key]) for key in (USER, ITEM) if names[key] in types.names]  # fetching misses one
        return cls(config, kind, *(frames.type_name(field.type) for field in ids))

    def of_new_days(
        self, log: Any, columns: Mapping[str, str | int | None] | None, settings: Mapping[str, Any]
    ) -> LogForm:
        """The form of later events of the log, to update its model by; keys that are not set keep their values.

        How long and how fast the model learns is decided again, unless it is set (`cutrec.decide_update`).

        Raises:
            ValueError: as `of`.
        """
        kept = as_written(for_update(self.config))
        replaced = {"dataset", *NAMES, *flatten(settings), *(f"download.columns.{key}" for key in columns or {})}
        kept = {key: value for key, value in kept.items() if key not in replaced}
        return type(self).of(log, columns, kept | flatten(settings))

    @classmethod
    def beside(cls, folder: Path) -> LogForm:
        """The form of a model's log: as saved beside the model, or as params.yaml of the checkout around it says.

        Raises:
            ValueError: the file is of another version, or params.yaml is wrong.
        """
        if (folder / FORM).is_file():
            values = read_json(folder / FORM)
            try:
                return cls(**{**values, "config": from_mapping(values["config"])})
            except (KeyError, TypeError) as error:
                raise StageError(
                    f"{folder / FORM}: found another form ({error}), allowed: that of this version"
                ) from None
        params = folder.resolve().parent.parent / PARAMS
        return cls(_with_absolute_names(load(params), params.parent) if params.is_file() else Config())

    def as_json(self) -> dict[str, Any]:
        """What is written to `FORM`."""
        return vars(self) | {"config": nest(as_written(self.config))}

    @property
    def user(self) -> str:
        """The column of users in what is returned: as in the log, unless it has a position or a name that is taken."""
        return _name(self.config.download.columns.user, USER)

    @property
    def item(self) -> str:
        """The same of items."""
        return _name(self.config.download.columns.item, ITEM)

    @contextmanager
    def as_source(self, log: Any) -> Iterator[Config]:
        """The configuration that fetches the log, which is a file during the block if it was a frame."""
        with tempfile.TemporaryDirectory() as folder:
            if frames.kind_of(log) is None:
                yield self.config
            else:
                with written(log, _columns_of(self.config.download), Path(folder), "log") as path:
                    yield replace(self.config, dataset=str(path))

    @contextmanager
    def as_histories(self, events: Any) -> Iterator[tuple[Path, Download]]:
        """A file of a frame of events during the block, and how it is read: the names are those of what is returned.

        A frame may lack the column of times, those of ratings and of kinds of events.
        """
        download = self.config.download
        optional = ((download.columns.timestamp, TIMESTAMP), (download.columns.rating, RATING))
        time, rating = (None if found is None else _name(found, usual) for found, usual in optional)
        columns = Columns(self.user, self.item, time, rating)
        settings = replace(download, columns=columns, format=Format())
        present = (*frames.names_of(events), self.user, self.item)
        wanted = [name for name in _columns_of(settings) if name in present]
        with (
            tempfile.TemporaryDirectory() as folder,
            stated_as(self._with_renaming(events)),
            written(events, wanted, Path(folder), "histories") as path,
        ):
            yield path, settings

    def _with_renaming(self, events: Any) -> Form:
        """`ARGUMENTS`, but options of the command line, which name columns, become the renaming of a frame's column."""
        names = {"--user-column": self.user, "--item-column": self.item}
        call = {"pandas": "rename(columns=%s)", "polars": "rename(%s)", "pyarrow": "rename_columns(%s)"}

        def settings(stated: Settings) -> str:
            renamed = {str(found): names[key] for key, found in stated.items() if key in names}
            if renamed:
                return f"histories=frame.{call[str(frames.kind_of(events))] % _literal(renamed)}"
            return as_arguments(stated)

        return Form(settings, _literal)


def _with_absolute_names(config: Config, root: Path) -> Config:
    """A configuration that finds the file of ``report.item_names`` wherever it is used later."""
    names = config.report.item_names
    if names is None or "://" in names:  # an address of a file holds its whole path
        return config
    return replace(config, report=replace(config.report, item_names=str(root / Path(names).expanduser())))


def as_arguments(settings: Settings) -> str:
    """Settings as arguments of `cutrec.Recommender.fit`, such as ``split={"holdout": 2}``."""
    keys = {key.removeprefix("download."): value for key, value in settings.items() if ".columns." in key}
    keys |= {key: value for key, value in settings.items() if ".columns." not in key}
    return ", ".join(f"{name}={_literal(value)}" for name, value in nest(keys).items())


def _literal(value: object) -> str:
    """A value as Python writes it, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


ARGUMENTS = Form(as_arguments, _literal)
"""The form of messages of `cutrec.Recommender`."""


def _name(found: str | int | None, usual: str) -> str:
    return found if isinstance(found, str) and found not in ("rank", "score") else usual


def _columns_of(download: Download) -> list[str]:
    """The columns that are read."""
    names = [*download.columns.by_key.values(), download.events.column]
    return [name for name in names if name is not None]


@contextmanager
def written(frame: Any, columns: list[str], folder: Path, what: str) -> Iterator[Path]:
    """A parquet file of columns of a frame; errors that name the file call it `what`."""
    path = folder / f"{what}.parquet"
    try:
        pq.write_table(frames.to_arrow(what, frame, columns), path)
        yield path
    except pa.ArrowException as error:
        raise StageError(f"{what}: found {' '.join(str(error).split())[:300]}, allowed: ids and times") from None
    except ValueError as error:
        text = str(error)
        for named in (f"dataset {str(path)!r}", f"histories {str(path)!r}", str(path)):
            text = text.replace(named, what)
        raise StageError(text) from error
