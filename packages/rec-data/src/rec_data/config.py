"""The sections of params.yaml about the log and its split, as strict frozen dataclasses.

This module imports neither torch nor polars.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from rec_data.schema import ITEM, RATING, TIMESTAMP, USER

STRICT = ConfigDict(strict=True, extra="forbid")
Share = Annotated[float, Field(gt=0, lt=1)]
MinCount = Annotated[int, Field(ge=1, le=1_000_000_000)] | Literal["auto"] | None


@dataclass(frozen=True, config=STRICT)
class Columns:
    """The column names of your own log."""

    user: str = USER
    """Integers or strings."""
    item: str = ITEM
    """Integers or strings."""
    timestamp: str = TIMESTAMP
    """Integers or floats (seconds, milliseconds or microseconds), dates, or ISO 8601 strings."""
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Download:
    """Where the raw log comes from and how it is read."""

    mirror: str | None = None
    """A directory that already holds the raw files, for machines without internet."""
    columns: Columns = field(default_factory=Columns)
    min_rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Keep ratings of at least this. Null: the data set's own rule (the paper: above 3), all of your own log."""


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
