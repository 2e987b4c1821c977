"""Lines that are no events: the header again where files were joined or in a file read without it, and rulers."""

import re

import polars as pl

from rec_data.config import Columns
from rec_data.errors import DataError
from rec_data.raw.rows import PLACE, find_rows
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import stated

USUAL = {
    USER: r"(?i)^(user|customer|visitor|session|account|member|person|client|reviewer)s?[ _-]?(id|name|no|hash)?$",
    ITEM: r"(?i)^((item|product|movie|article|track|song|book|video|news|sku)s?[ _-]?(id|name|no)?|(parent_)?asin)$",
    TIMESTAMP: r"(?i)^((event|invoice|order|transaction|view|visit)[ _-]?)?(time|date|datetime|timestamp|ts)$",
    RATING: r"(?i)^(rating|rate|stars|score)s?$",
}
"""Usual names of columns."""
_RULER = r"^[-=+:.…_*]{2,}$"
"""What is drawn between a header and its rows, or stands for rows that were left out; looked for in the first rows."""
_FIRST_ROWS = 1000
_MANY = 10
"""So many rows of numbers say that a row of texts below the header is no event."""
_NUMBER = r"^-?[0-9]+(\.0+)?$"


def no_events(frame: pl.LazyFrame, columns: Columns) -> pl.Expr:
    """Say which rows hold names of columns, or rulers, instead of values.

    In a file with a header, each text of such a row is one of its names; in a file without one, user and item are
    usual names of columns. A first row of texts is such a row too (as one of types) if all other ids are numbers.

    Args:
        frame: The raw table, its columns named as those of the log.
        columns: The names of the columns in the source.
    """
    texts = _texts(frame, columns)
    if not texts.keys() >= {USER, ITEM}:
        return pl.lit(value=False)
    if not _without_header(texts):
        held = [name.strip() + kind for name in texts.values() for kind in ("", ":token", ":float")]  # RecBole
        names = pl.all_horizontal(pl.col(key).is_in(held) for key in texts)
    else:
        names = pl.all_horizontal(pl.col(key).str.contains(USUAL[key]) for key in (USER, ITEM))
    least = 1 if _without_header(texts) else _MANY
    if _only_first_is_text(frame.head(_FIRST_ROWS), least) and _only_first_is_text(frame, least):
        names |= ~pl.col(USER).str.contains(_NUMBER)
    rulers = pl.all_horizontal(pl.col(key).str.contains(_RULER) for key in (USER, ITEM))
    drawn = frame.head(_FIRST_ROWS).select(rulers.any()).collect().item()
    return (names | rulers if drawn else names).fill_null(value=False)


def refuse_no_events(frame: pl.LazyFrame, columns: Columns, wrong: pl.Expr, origin: str) -> None:
    """Refuse the rows that are no events; there is at least one.

    Raises:
        DataError: Always. Where a file was read without its header, the message says how to read it.
    """
    found = find_rows(frame, wrong, "1 line that is no event", "lines that are no events")
    texts = _texts(frame, columns)
    row = frame.filter(wrong).select(PLACE, *texts).head(1).collect(engine="streaming").row(0, named=True)
    cure = "remove it (as in a drawn table, or in files that were joined)"
    if _without_header(texts) and _first_of_every_file(frame, wrong):
        shown = {key: row[key] if re.fullmatch(r"[^\W\d]\w*", row[key]) else "NAME" for key in texts}
        named = {f"download.columns.{key.removesuffix('_id')}": name for key, name in shown.items()}
        cure = f"read the header: {stated({'download.format.header': True, **named})}"
    raise DataError(f"{origin} has {found}: {', '.join(row[key] for key in texts)}; allowed: none, {cure}")


def _first_of_every_file(frame: pl.LazyFrame, chosen: pl.Expr) -> bool:
    """Whether the chosen rows are the first one of each file."""
    file = pl.col(PLACE).str.replace(", line [0-9]+$", "").alias("file")
    firsts = frame.group_by(file).agg(chosen.first().alias("first"), chosen.sum().alias("chosen"))
    found = firsts.select(pl.col("first").all() & (pl.col("chosen") == 1).all())
    return bool(found.collect(engine="streaming").item())


def _texts(frame: pl.LazyFrame, columns: Columns) -> dict[str, str]:
    """The names in the source of the columns that are text, by the column of the log."""
    schema = frame.collect_schema()
    return {key: name for key, name in columns.by_key.items() if schema[key] == pl.String}


def _without_header(texts: dict[str, str]) -> bool:
    """Whether columns are given by their positions."""
    return all(name.isdecimal() for name in texts.values())


def _only_first_is_text(frame: pl.LazyFrame, least: int) -> bool:
    """Whether user and item are texts in the first row, and numbers in all others, at least so many."""
    numbers = [pl.col(key).str.contains(_NUMBER).fill_null(value=True) for key in (USER, ITEM)]
    text, number = pl.any_horizontal(numbers).not_(), pl.all_horizontal(numbers)
    first = frame.head(1).select(text.any()).collect().item()
    asked = number.all() & (pl.len() >= least)
    return bool(first and frame.slice(1).select(asked).collect(engine="streaming").item())
