"""Recommend items for histories: the top k of the whole catalogue for each user, written as a parquet."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from cutrec.checksums import checksum, verified
from cutrec.errors import StageError
from cutrec.outputs import read_json, unchanged
from cutrec.workflow.fetch import drop_without_effect
from cutrec.workflow.history_sources import SplitSource
from cutrec.workflow.ranking import load_encoder
from cutrec.workflow.recommendations import ranked_batches, write_recommendations
from rec_data.config import Download
from rec_data.sequences.histories import Histories, Skipped, read_histories
from rec_data.stated import stated
from rec_models.encoders import Encoder

if TYPE_CHECKING:
    from rec_data.raw.history_files import HistoryLog


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        StageError: there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise StageError("--device: found cuda, but torch finds no GPU here, allowed: cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_model(model: Path, device: torch.device) -> tuple[Encoder, pa.Array]:
    """Load a model, and the ids of its items from ``items.parquet`` beside it.

    Returns:
        The encoder in eval mode, and ``[V]`` the original item ids by dense id.

    Raises:
        StageError: there is no catalogue, or it belongs to another model.
    """
    path = model.parent / "items.parquet"
    if not path.is_file():
        raise StageError(f"--model: found no {path}, which says what items {model} ranks; keep the two together")
    encoder, catalogue = load_encoder(verified(model), path, device)
    return encoder, catalogue.names


def read_log(
    log: Path,
    item_names: pa.Array,
    *,
    model: Path,
    trained_with: str | None,
    tie_seed: int | None,
    users: Sequence[str] | None,
) -> tuple[Histories, list[str]]:
    """Read the histories of the log of the pipeline.

    Args:
        log: as the stage download wrote it.
        item_names: ``[V]`` original item ids by dense id.
        model: the checkpoint, for the note.
        trained_with: the SHA-256 of the log that the model was trained with; None if it does not say.
        tie_seed: seed of the order of events with equal times; None keeps the order of rows.
        users: ids of the users as text; None means all.

    Returns:
        The histories, and notes if the model was trained with another log, or if the log lacks some of the users.

    Raises:
        StageError: the log is missing or damaged, or another process replaced it while it was read.
    """
    with unchanged(log):
        notes = notes_on_log(log, checksum(verified(log)), model=model, trained_with=trained_with)
        histories = read_histories(log, item_names, tie_seed=tie_seed, users=users)
    if users and (absent := sorted(set(users) - set(map(str, histories.user_names.to_pylist())))):
        notes.append(f"users that {log} does not hold: {', '.join(map(repr, absent))}")
    return histories, notes


def read_split(
    split: Path, item_names: pa.Array, *, log: Path, users: Sequence[str] | None
) -> tuple[Histories, list[str]]:
    """Read the histories of a split whose log is not at hand: those of some users from their parts alone.

    Args:
        split: its folder.
        item_names: ``[V]`` original item ids by dense id.
        log: where the log would be, for the note.
        users: ids of the users as text; None means all.

    Returns:
        The histories, and notes.

    Raises:
        StageError: a file is missing or damaged, or of other items.
    """
    source, notes = SplitSource(split, item_names), [no_log(log, split)]
    histories = source.everybody() if users is None else source.of_users(users)
    found = histories.user_names.take(pa.array(histories.store.user_ids.numpy()))
    if users and (absent := sorted(set(users) - set(map(str, found.to_pylist())))):
        notes.append(f"users that {split} does not hold: {', '.join(map(repr, absent))}")
    return histories, notes


def no_log(log: Path, split: Path) -> str:
    """A note that histories are those of the split."""
    why = f"{log} is not the log of {split}" if log.is_file() else f"no {log}"
    return f"{why}: histories are those of {split}, up to the last target of each user"


def notes_on_log(log: Path, found: str, *, model: Path, trained_with: str | None) -> list[str]:
    """A note if a log with the SHA-256 `found` is not the one that the model was trained with."""
    notes = []
    if trained_with not in (None, found):
        summary = log.with_name("summary.json")
        if summary.is_file() and "rows_forgotten" in read_json(summary):
            cure = "users were forgotten since then, train again (uv run python -m pipelines.train)"
        else:
            cure = "lists are right only if it is a later log of the same items, otherwise train again (dvc repro)"
        notes.append(f"{log} is another log than {model} was trained with: {cure}")
    return notes


def read_file(
    histories: str,
    item_names: pa.Array,
    *,
    root: Path,
    named: Collection[str],
    settings: Download,
    tie_seed: int | None,
) -> tuple[Histories, list[str]]:
    """Read the histories of a file of events or of lists.

    Args:
        histories: a path, folder or glob of parquet or CSV files.
        item_names: ``[V]`` original item ids by dense id.
        root: the folder that a relative path starts from.
        named: the columns that the file must have, as `write_history_log` takes them.
        settings: how the file is read.
        tie_seed: seed of the order of events with equal times; None keeps the order of rows.

    Returns:
        The histories, and notes on how the file was read.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        notes = write_file(histories, log, root=root, named=named, settings=settings)
        return read_histories(log, item_names, tie_seed=tie_seed), notes


def write_file(histories: str, log: Path, *, root: Path, named: Collection[str], settings: Download) -> list[str]:
    """Write the log of a file of histories, with the arguments of `read_file`; return notes on how it was read."""
    from rec_data.raw.history_files import write_history_log  # needs polars, which ranking itself does not

    found = write_history_log(histories, log, root=root, columns=settings.columns, named=named, settings=settings)
    return _notes(found, settings)


def _notes(found: HistoryLog, settings: Download) -> list[str]:
    """How a file of histories was read, one line each."""
    notes, time, rating = [], settings.columns.timestamp, settings.columns.rating
    if found.other_events:
        kept = ", ".join(map(str, settings.events.keep))
        notes.append(f"events other than {kept} (download.events.keep) are skipped: {found.other_events:,}")
    if settings.events.column is not None and not found.of_kinds:
        kept = ", ".join(map(str, settings.events.keep))
        notes.append(f"no column {settings.events.column!r}: events other than {kept} are not skipped")
    if settings.min_rating is not None and not found.rated:
        what = "no column of ratings" if rating is None else f"no column {rating!r}"
        notes.append(f"{what}: {stated({'download.min_rating': settings.min_rating})} is not applied")
    elif found.low_ratings:
        notes.append(f"events with a rating below {settings.min_rating:g} are skipped: {found.low_ratings:,}")
    if found.in_row_order:
        what = "no times" if time is None else f"no column {time!r}"
        notes.append(f"{what}: events of a user are taken in the order of rows")
        if settings.duplicates == "drop":
            notes.append(drop_without_effect())
    if found.joined_users:
        notes.append(f"users with several lists, which are joined in the order of rows: {found.joined_users:,}")
    if found.empty_users:
        notes.append(f"users with an empty history get no list: {found.empty_users:,}")
    if found.users_without_rows:
        notes.append(f"users whose events are all skipped get no list: {found.users_without_rows:,}")
    return notes


def unusable(unknown_items: Skipped, empty_users: Skipped) -> list[str]:
    """What of histories could not be used, one line each."""
    lines = []
    if (left := unknown_items).count:
        line = f"unknown items are skipped: {left.count:,} in {left.events:,} events: {_examples(left)}"
        if any(isinstance(item, str) and re.fullmatch(r"-?\d+\.0*", item) for item in left.examples):
            line += "; ids of text files are compared as text: write 7 and not 7.0"
        lines.append(line)
    if (left := empty_users).count:
        lines.append(f"users without any known item get no list: {left.count:,}: {_examples(left)}")
    return lines


def _examples(left: Skipped) -> str:
    more = ", ..." if left.count > len(left.examples) else ""
    return ", ".join(map(repr, left.examples)) + more


def recommend(
    encoder: Encoder,
    histories: Histories,
    items: pa.Array,
    out: Path,
    *,
    k: int,
    batch_users: int,
    keep_seen: bool,
    as_csv: bool,
) -> int:
    """Rank the catalogue for each history, batch by batch, and write a file of user_id, item_id, rank, score.

    Args:
        encoder: in eval mode.
        histories: of the users.
        items: ``[V]`` original item ids by dense id.
        out: the file.
        k: items per user, at most V.
        batch_users: users per batch.
        keep_seen: recommend items of the history too.
        as_csv: write CSV in place of parquet.

    Returns:
        The number of rows written.

    Raises:
        StageError: no user has an item that the model knows.
    """
    if len(histories.store) == 0:
        raise StageError("nobody has an item that the model knows, so there is nothing to recommend from")
    ranked = ranked_batches(
        encoder, histories.store, k, batch_users=batch_users, filter_seen=not keep_seen, title="recommend"
    )
    written = write_recommendations(out, ranked, histories.user_names, items, as_csv=as_csv)
    return sum(int((ids >= 0).sum()) for ids in written)
