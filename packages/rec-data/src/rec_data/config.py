"""The sections of params.yaml about the log and its split, as strict frozen dataclasses.

This module imports neither torch nor polars.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from rec_data.schema import ITEM, RATING, TIMESTAMP, USER

STRICT = ConfigDict(strict=True, extra="forbid")
Share = Annotated[float, Field(gt=0, lt=1)]
MinCount = Annotated[int, Field(ge=1)] | Literal["auto"] | None

NULL_VALUES = ("NaN", "nan", "null", "NULL", "None", "NA", "N/A", "<NA>", "\\N")
"""What pandas, polars, R, JSON, SQL and Hive write for a missing value."""


@dataclass(frozen=True, config=STRICT)
class Columns:
    """The column names of your own log."""

    user: str = USER
    """Integers or strings."""
    item: str = ITEM
    """Integers or strings."""
    timestamp: str = TIMESTAMP
    """Numbers (seconds, milliseconds, microseconds or nanoseconds), dates, ISO 8601 strings, or strings in the form of
    ``time_format``."""
    rating: str | None = None
    """Null: the log has no rating, or it is not read."""

    def __post_init__(self) -> None:
        if len(set(self.by_key.values())) < len(self.by_key):
            raise ValueError("allowed: different column names")

    @property
    def by_key(self) -> dict[str, str]:
        """The names of the columns that are read, by the column of the log that each becomes."""
        names = {USER: self.user, ITEM: self.item, TIMESTAMP: self.timestamp}
        return names if self.rating is None else {**names, RATING: self.rating}


def _check_time_format(found: str) -> str:
    if not re.search(r"%[YyGgFDscx+]", found):
        raise ValueError("allowed: a strftime format with a year, such as %d.%m.%Y %H:%M")
    if "%Z" in found:
        raise ValueError("allowed: %z for offsets such as +0100, or the zone's name itself; times are then read as UTC")
    if re.search(r"(?<!\.)%f", found):
        raise ValueError("allowed: fractions of a second as %.f right after %S")
    return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Download:
    """Where the raw log comes from and how it is read."""

    mirror: str | None = None
    """A directory that already holds the raw files, for machines without internet."""
    columns: Columns = field(default_factory=Columns)
    min_rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Keep ratings of at least this. Null: the data set's own rule (the paper: above 3), all of your own log."""
    time_format: Annotated[str, AfterValidator(_check_time_format)] | None = None
    """The strftime format of times that are text in your own log, such as ``%d.%m.%Y %H:%M``. Null: Unix times, dates
    and ISO 8601 are recognized."""
    null_values: Literal["auto"] | tuple[str, ...] = "auto"
    """Texts that stand for a missing id in your own log; they are refused as empty ids are. ``auto``: `NULL_VALUES`;
    ``[]`` takes all texts as ids."""

    @property
    def missing_ids(self) -> tuple[str, ...]:
        """The texts that stand for a missing id."""
        return NULL_VALUES if self.null_values == "auto" else self.null_values


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Split:
    """How the log becomes train, validation and test."""

    strategy: Literal["temporal", "leave_one_out"] = "temporal"
    """``leave_one_out`` is for logs with an order but no clock."""
    test_fraction: Share = 0.1
    """Temporal: the share of all interactions, the latest ones, that form the future."""
    validation_users: Share = 0.05
    """Temporal: the share of the users of the past whose sequences validate."""
    min_item_count: MinCount = "auto"
    """Drop items with fewer interactions. ``auto``: 5 for temporal, none for leave_one_out."""
    min_user_count: MinCount = "auto"
    """Drop users with fewer interactions, after the items. ``auto``: 3 for temporal, none for leave_one_out."""
