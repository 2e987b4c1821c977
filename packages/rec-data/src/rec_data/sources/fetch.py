"""Any source to one parquet of interactions, and the identity of a source.

This module imports neither torch nor, unless a file has to be read, polars.
"""

import difflib
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.schema import Columns, to_arrow
from rec_data.sources import demo
from rec_data.sources import synthetic as twins
from rec_data.sources.registry import RS_SETS, SOURCES, UNUSABLE

DEMO = "demo"
TWIN = "twin:"
GENERATED_SEED = 0
"""Of the demo and the twins: data sets as others are, so a name is one log unless another seed is asked for."""


def fetch_log(
    dataset: str,
    out: Path,
    *,
    root: Path,
    columns: Columns | None = None,
    min_rating: float | None = None,
    mirror: Path | None = None,
    seed: int = GENERATED_SEED,
) -> dict[str, Any]:
    """Writes the log of a source: ``user_id``, ``item_id``, ``timestamp`` and, where the source has one, ``rating``.

    Row order is the source's. Ids keep their type (integers or strings). Times are integers: Unix seconds, or
    milliseconds or microseconds where the source is finer than a second (``rec_data.raw.timestamps``).

    Args:
        dataset: ``demo``, ``twin:<name>[@scale]``, a path or glob of parquet or CSV files, or a named source.
        out: The parquet to write, none of the source's files. Its folder must exist.
        root: Where relative paths start.
        columns: Column names of a file of one's own; the other sources bring theirs.
        min_rating: Keep rows with a rating of at least this. None: all rows of a file, and the published filter of a
            named source.
        mirror: A folder that already holds the raw files of named sources, for machines without internet.
        seed: Of ``demo`` and the twins; the others have none.

    Returns:
        What was written, ready for JSON: ``dataset``, ``kind``, ``rows``, ``rows_read``, ``timestamp_unit``.

    Raises:
        DataError: Whatever is wrong with the name, the files, their columns or their values, or with the output.
    """
    if min_rating is not None and not math.isfinite(min_rating):
        raise DataError(f"min_rating is {min_rating}; allowed: a number, or null for all")
    if out.is_dir():
        raise DataError(f"{out} cannot be written: it is a folder; allowed: a file")
    part = out.with_name(out.name + ".part")
    _refuse_unwritable(part)
    try:
        _refuse_overwriting(dataset, out, root=root)
        summary = _write(dataset, part, root=root, columns=columns, min_rating=min_rating, mirror=mirror, seed=seed)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return {"dataset": dataset, **summary}


def fingerprint(dataset: str, *, root: Path, mirror: Path | None = None, seed: int = GENERATED_SEED) -> dict[str, Any]:
    """The identity of a source, ready for JSON: it differs whenever the source's log would.

    Args:
        dataset: As ``fetch_log`` takes it.
        root: Where relative paths start.
        mirror: As ``fetch_log`` takes it.
        seed: As ``fetch_log`` takes it.

    Returns:
        For files their path, size and SHA-256; for generated logs the generator's name, version, sizes and seed.

    Raises:
        DataError: An unknown name or a missing file.
    """
    if dataset == DEMO:
        return {"kind": "demo", "version": demo.VERSION, "seed": seed}
    if dataset.startswith(TWIN):
        name, shape = twins.parse(dataset.removeprefix(TWIN))
        sizes = {"users": shape.users, "items": shape.items, "interactions": shape.interactions}
        return {"kind": "twin", "name": name, "version": twins.VERSION, **sizes, "seed": seed}
    from rec_data.raw import files

    if files.looks_like_path(dataset):
        found = files.find(dataset, root=root)
        return {
            "kind": "file",
            "files": [{"path": str(p), "size": p.stat().st_size, "sha256": files.sha256(p)} for p in found],
        }
    _check_name(dataset)
    from rec_data.sources.published import identity

    return identity(dataset, mirror=mirror)


def _refuse_unwritable(part: Path) -> None:
    """Tries the output before anything is read or made."""
    try:
        part.open("wb").close()
        part.unlink()  # a glob over this folder must not find it
    except OSError as error:
        out = part.with_name(part.name.removesuffix(".part"))
        raise DataError(f"{out} cannot be written: {error.strerror}") from error


def _refuse_overwriting(dataset: str, out: Path, *, root: Path) -> None:
    """Refuses an output that is one of the files to read."""
    if dataset == DEMO or dataset.startswith(TWIN) or not out.exists():
        return
    from rec_data.raw import files

    if files.looks_like_path(dataset):
        for path in files.find(dataset, root=root):
            if path.samefile(out):
                raise DataError(f"{out} is what dataset {dataset!r} reads; allowed: another file to write")


def _write(
    dataset: str,
    out: Path,
    *,
    root: Path,
    columns: Columns | None,
    min_rating: float | None,
    mirror: Path | None,
    seed: int,
) -> dict[str, Any]:
    from_file = not (dataset == DEMO or dataset.startswith(TWIN) or dataset in SOURCES or dataset in RS_SETS)
    if not from_file and columns not in (None, Columns()):
        raise DataError(
            f"columns are named but dataset {dataset!r} brings its own; allowed: names only for a file of one's own"
        )
    if dataset == DEMO or dataset.startswith(TWIN):
        if min_rating is not None:
            raise DataError(f"min_rating is {min_rating:g} but dataset {dataset!r} has no ratings; allowed: null")
        rows = _write_generated(dataset, out, seed=seed)
        kind = DEMO if dataset == DEMO else TWIN.rstrip(":")
        return {"kind": kind, "rows": rows, "rows_read": rows, "timestamp_unit": "s"}
    from rec_data.raw import files
    from rec_data.raw.normalise import write_log

    if not files.looks_like_path(dataset):
        _check_name(dataset)
        from rec_data.sources.published import write_published

        done = write_published(dataset, out, mirror=mirror, min_rating=min_rating)
        return {
            "kind": "published",
            "rows": done.rows,
            "rows_read": done.rows_read,
            "timestamp_unit": done.timestamp_unit,
        }
    paths = files.find(dataset, root=root)
    origin = f"dataset {dataset!r}"
    names = columns or Columns()
    with files.reading(origin):
        frame = files.scan(paths, names.present)
    done = write_log(frame, out, columns=names, min_rating=min_rating, origin=origin)
    return {"kind": "file", "rows": done.rows, "rows_read": done.rows_read, "timestamp_unit": done.timestamp_unit}


def _write_generated(dataset: str, out: Path, *, seed: int) -> int:
    if seed < 0:
        raise DataError(f"seed {seed}; allowed: at least 0")
    if dataset == DEMO:
        table = pa.table({name: to_arrow(values) for name, values in demo.generate(seed).items()})
        pq.write_table(table, out, compression="zstd")
        return int(table.num_rows)
    _, shape = twins.parse(dataset.removeprefix(TWIN))
    return twins.write_twin(shape, out, seed=seed)


def _check_name(dataset: str) -> None:
    """Refuses what is no published data set either."""
    if dataset in SOURCES or dataset in RS_SETS:
        return
    if dataset in UNUSABLE:
        raise DataError(f"dataset {dataset!r} cannot be used: {UNUSABLE[dataset]}")
    known = [DEMO, *SOURCES, *RS_SETS, *(TWIN + name for name in twins.TWINS)]
    close = difflib.get_close_matches(dataset, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    allowed = ", ".join(name for name in known if not name.startswith("amazon_"))
    raise DataError(
        f"dataset {dataset!r} is unknown{hint}; allowed: {allowed} (a twin takes @scale), amazon_<category>, "
        "or a path to parquet or CSV"
    )
