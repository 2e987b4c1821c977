"""Tables of named tuples as CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


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
