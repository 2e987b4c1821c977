"""Logs of several kinds of events, such as views and purchases: which kinds there are, and keeping some of them."""

import difflib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

import polars as pl

from rec_data.config import Events
from rec_data.errors import DataError
from rec_data.raw.files import require_columns
from rec_data.stated import stated

USUAL_NAMES = frozenset(
    f"{word}{ending}"
    for word in ("event", "action", "activity", "behavior", "behaviour", "interaction")
    for ending in ("", "type", "name", "kind")
) | {"type", "kind"}
"""Names of columns of kinds of events, in lower case without spaces and underscores."""

SHOWN = 10
"""Kinds of events that a message lists."""
_FIRST_ROWS = 1000
_DECIMALS = r"^(-?[0-9]+)\.0+$"
"""Integers that a tool wrote as floats, because values were missing."""
_PLAIN = r"(?i)(?!(?:true|false|null|yes|no|on|off|nan|inf)$)[a-z_]\w*|0|[1-9][0-9]*"
"""Values that YAML reads as they are written."""


class KeptEvents(NamedTuple):
    """The rows of the kinds of events that are kept."""

    frame: pl.LazyFrame
    dropped: int | None
    """Rows of other kinds; None if all kinds are kept."""


def keep_events(frame: pl.LazyFrame, events: Events, origin: str, *, all_occur: bool = True) -> KeptEvents:
    """Keep the rows whose event is one of ``events.keep``; all rows if no column is named.

    ``all_occur`` refuses a value that no row holds, which is probably misspelt.

    Raises:
        DataError: The column is missing or holds neither integers nor strings, or never holds one of the values.
    """
    if events.column is None:
        return KeptEvents(frame, None)
    column, keep = events.column, [re.sub(_DECIMALS, r"\1", str(value)) for value in events.keep]
    schema = frame.collect_schema()
    flag = "download.events.column"
    require_columns(schema, {flag: column}, origin, keys={flag: flag})
    kind, value_of = schema[column], pl.col(column)
    if kind.is_float():  # integers that passed through a tool which stores missing values as NaN
        whole = value_of.is_finite() & (value_of == value_of.floor()) & (value_of.abs() < 2**53)
        value_of = pl.when(whole).then(value_of).cast(pl.Int64)
    elif not _is_kind(kind):
        raise DataError(f"{origin}: column {column!r} holds {kind}; allowed for events: integers or strings")
    text = value_of.cast(pl.String).str.strip_chars().str.replace(_DECIMALS, "${1}")
    counts = frame.group_by(text.alias("event")).len().collect(engine="streaming")
    found = dict(counts.sort(pl.col("len"), "event", descending=[True, False]).rows())
    for value in keep:
        if all_occur and value not in found:
            held = _listed(f"{'nothing' if name is None else repr(name)} ({rows:,})" for name, rows in found.items())
            close = difflib.get_close_matches(
                value, [name for name in found if name and re.fullmatch(_PLAIN, name)], 1, 0
            )
            cure = f"; allowed: values that it holds ({stated({'download.events.keep': [close[0]]})})" if close else ""
            raise DataError(
                f"{origin}: column {column!r} never holds {value!r} of download.events.keep; it holds {held}{cure}"
            )
    dropped = sum(found.values()) - sum(found.get(value, 0) for value in set(keep))
    return KeptEvents(frame.filter(text.is_in(keep)), dropped)


def find_events(frame: pl.LazyFrame, *, besides: Collection[str]) -> dict[str, str]:
    """Find columns that seem to hold kinds of events, ``besides`` some others, with the values of the first rows."""
    found = {}
    for name, kind in frame.collect_schema().items():
        plain = name.strip().lower().replace("_", "").replace(" ", "").replace("-", "")
        if name not in besides and plain in USUAL_NAMES and _is_kind(kind):
            values = frame.head(_FIRST_ROWS).select(pl.col(name).cast(pl.String).unique().drop_nulls()).collect()
            if len(values) > 1:
                found[name] = _listed(values[name].sort())
    return found


def _is_kind(kind: pl.DataType) -> bool:
    return kind.is_integer() or kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    return ", ".join(every[:SHOWN]) + (", ..." if len(every) > SHOWN else "")
