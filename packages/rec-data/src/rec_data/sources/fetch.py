"""Any source to one parquet file of interactions, and the identity of a source.

This module imports neither torch nor, unless a file has to be read, polars.
"""

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rec_data.arrays import to_arrow
from rec_data.config import Columns, Download, Events, Format
from rec_data.errors import DataError, writing
from rec_data.schema import TIMESTAMP, UNITS
from rec_data.sources import demo, synthetic
from rec_data.sources.registry import DEMO, SOURCES, UNUSABLE, is_generated, lookup
from rec_data.stated import stated

GENERATED_SEED = 0
"""Default seed of the demo and the synthetic logs, so that a name always means the same log."""


def fetch_log(
    dataset: str, out: Path, *, root: Path, settings: Download | None = None, seed: int = GENERATED_SEED
) -> dict[str, Any]:
    """Write the log of a source: ``user_id``, ``item_id``, ``timestamp`` and, if the source has ratings, ``rating``.

    Rows keep the order of the source. Ids keep their type (integers or strings). Times are integers: Unix seconds, or
    milliseconds, microseconds or nanoseconds if the source is finer than a second (``rec_data.raw.timestamps``).

    Args:
        dataset: ``demo``, ``twin:<name>[@scale]``, a path, a folder, a glob or an address (``s3://bucket/log.parquet``)
            of parquet or CSV files, or a named source.
        out: The parquet file to write, which must not be one of the source's files. Its folder must exist.
        root: The folder that relative paths start from.
        settings: How the source is read; None means the defaults. Columns can only be given for the user's own files,
            because other sources have fixed names.
        seed: Seed of ``demo`` and the synthetic logs; other sources have none.

    Returns:
        What was written, ready for JSON: ``dataset``, ``kind``, ``rows``, ``rows_read``, ``timestamp_unit``; where
        rows were dropped, ``rows_of_other_events`` and ``duplicates_dropped``; of your own file also
        ``columns_of_events``, those that ``download.events`` may be meant for, with their values, and
        ``rows_after_today``, if some have times more than a day after now.

    Raises:
        DataError: The name, the files, their columns, their values, or the output is wrong.
    """
    settings = settings or Download()
    if out.is_dir():
        raise DataError(f"{out} cannot be written: it is a folder; allowed: a file")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")  # no other process writes or removes it
    _refuse_unwritable(part, out)
    try:
        _refuse_overwriting(dataset, out, root=root)
        if is_generated(dataset) or dataset in SOURCES:
            for name, usual in (
                ("columns", Columns()),
                ("events", Events()),
                ("format", Format()),
                ("time_format", None),
                ("null_values", "auto"),
            ):
                if getattr(settings, name) != usual:
                    raise DataError(
                        f"download.{name} is given but dataset {dataset!r} has its own; allowed: only for files"
                    )
        if is_generated(dataset):
            if settings.min_rating is not None:
                found = f"min_rating is {settings.min_rating:g} but dataset {dataset!r} has no ratings"
                raise DataError(f"{found}; allowed: {stated({'download.min_rating': None})}")
            with writing(part):
                summary = _generate(dataset, part, seed=seed)
        else:
            summary = _read(dataset, part, root=root, settings=settings)
        if settings.duplicates == "drop" and settings.columns.timestamp is not None:
            from rec_data.raw.normalise import drop_duplicates

            summary["duplicates_dropped"] = drop_duplicates(part)
            summary["rows"] -= summary["duplicates_dropped"]
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return {"dataset": dataset, **summary}


def fingerprint(
    dataset: str, *, root: Path, settings: Download | None = None, seed: int = GENERATED_SEED
) -> dict[str, Any]:
    """Return the identity of a source, ready for JSON; it differs whenever the source's log would.

    The arguments are those of ``fetch_log``; of the settings, only the mirror counts.

    Returns:
        For files their path, size and SHA-256; for generated logs the generator's name, version, sizes and seed.

    Raises:
        DataError: An unknown name or a missing file.
    """
    if dataset == DEMO:
        return {"kind": DEMO, "version": demo.VERSION, "seed": seed}
    if is_generated(dataset):
        name, shape = synthetic.parse(dataset)
        sizes = {"users": shape.users, "items": shape.items, "interactions": shape.interactions}
        return {"kind": synthetic.KIND, "name": name, "version": synthetic.VERSION, **sizes, "seed": seed}
    from rec_data.raw import files

    if _names_files(dataset, root):
        from rec_data.sources.remote import located

        with located(dataset, root=root) as found:
            facts = [{"path": name, "size": p.stat().st_size, "sha256": files.digest(p)} for name, p in found.items()]
        return {"kind": "file", "files": facts}
    source = lookup(dataset)
    from rec_data.sources.published import identity

    return identity(dataset, source, mirror=_mirror(settings or Download(), root))


def _names_files(dataset: str, root: Path) -> bool:
    """Whether a data set is the user's own: it looks like a path, or only a file or a folder has this name."""
    from rec_data.raw import finding

    named = dataset in SOURCES or dataset in UNUSABLE
    return finding.looks_like_path(dataset) or (not named and (root / dataset).exists())


def _refuse_unwritable(part: Path, out: Path) -> None:
    """Try to write the output before anything is read or generated."""
    try:
        part.open("wb").close()
        part.unlink()  # a glob over this folder must not find it
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error


def _refuse_overwriting(dataset: str, out: Path, *, root: Path) -> None:
    """Refuse an output that is one of the files to read."""
    if is_generated(dataset) or not out.exists() or not _names_files(dataset, root):
        return
    from rec_data.raw import finding

    if not finding.is_address(dataset) and any(path.samefile(out) for path in finding.find(dataset, root=root)):
        raise DataError(f"{out} is a file that dataset {dataset!r} reads; allowed: another file to write")


def _mirror(settings: Download, root: Path) -> Path | None:
    if not settings.mirror:
        return None
    mirror = root / settings.mirror
    if not mirror.is_dir():
        raise DataError(f"download.mirror {mirror} is not a folder")
    return mirror


def _read(dataset: str, out: Path, *, root: Path, settings: Download) -> dict[str, Any]:
    """Write the log of files or of a published data set."""
    if _names_files(dataset, root):
        from rec_data.sources.remote import located

        with located(dataset, root=root, folder=out.parent) as paths:
            return _read_files(dataset, list(paths.values()), out, settings=settings)
    source = lookup(dataset)
    from rec_data.sources.published import write_published

    mirror = _mirror(settings, root)
    return {"kind": "published"} | write_published(dataset, source, out, mirror=mirror, min_rating=settings.min_rating)


def _read_files(dataset: str, paths: list[Path], out: Path, *, settings: Download) -> dict[str, Any]:
    """Write the log of files."""
    from rec_data.raw import files
    from rec_data.raw.events import find_events, keep_events
    from rec_data.raw.normalise import write_log

    columns, min_rating, hints = settings.columns, settings.min_rating, {}
    origin = f"dataset {dataset!r}"
    with files.reading(origin):
        wanted = [name for name in (*columns.by_key.values(), settings.events.column) if name is not None]
        frame = files.scan(paths, wanted, settings.format)
        if settings.events.column is None:
            hints = {"columns_of_events": found} if (found := find_events(frame, besides=wanted)) else {}
        keys = {key: f"download.columns.{key.removesuffix('_id')}" for key in columns.by_key}
        files.require_columns(frame.collect_schema(), columns.by_key, origin, keys=keys)
        frame, others = keep_events(frame, settings.events, origin)
        if columns.timestamp is None:
            frame, columns = files.number_rows(frame, columns)
    done = write_log(
        frame,
        out,
        columns=columns,
        min_rating=min_rating,
        origin=origin,
        time_format=None if settings.columns.timestamp is None else settings.time_format,
        null_values=settings.missing_ids,
    )
    later = _rows_after_today(out, UNITS[done.timestamp_unit])
    return {"kind": "file", **done.with_other_events(others).facts, **hints} | (
        {"rows_after_today": later} if later else {}
    )


def _rows_after_today(log: Path, ticks: int) -> int:
    """The rows with times more than a day after now, in units of which a second has `ticks`.

    Times are only read where the statistics of the file say that there are any.
    """
    limit, found = int((time.time() + 86_400) * ticks), 0
    with pq.ParquetFile(log) as file:
        place = file.schema_arrow.names.index(TIMESTAMP)
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(place).statistics
            if statistics is None or not statistics.has_min_max or statistics.max > limit:
                times = file.read_row_group(group, columns=[TIMESTAMP])[TIMESTAMP]
                found += pc.sum(pc.greater(times, limit)).as_py() or 0
    return found


def _generate(dataset: str, out: Path, *, seed: int) -> dict[str, Any]:
    """Write the demo or a synthetic log."""
    if seed < 0:
        raise DataError(f"seed {seed}; allowed: at least 0")
    if dataset == DEMO:
        table = pa.table({name: to_arrow(values) for name, values in demo.generate(seed).items()})
        pq.write_table(table, out, compression="zstd")
        kind, rows = DEMO, int(table.num_rows)
    else:
        kind, rows = synthetic.KIND, synthetic.write_synthetic_log(synthetic.parse(dataset)[1], out, seed=seed)
    return {"kind": kind, "rows": rows, "rows_read": rows, "timestamp_unit": "s"}
