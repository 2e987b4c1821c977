"""The sections of params.yaml about the log and its split, as strict frozen dataclasses.

This module imports neither torch nor polars.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import stated, stated_value

STRICT = ConfigDict(strict=True, extra="forbid")
Share = Annotated[float, Field(gt=0, lt=1)]
TieOrder = Literal["shuffle", "row_order"]
TargetChoice = Literal["last", "first", "random", "successive"]
Position = Annotated[int, Field(ge=1, le=1_000_000)]
MinCount = Annotated[int, Field(ge=1, le=1_000_000_000)] | Literal["auto"] | None

NULL_VALUES = (
    "NaN", "nan", "NaT", "null", "NULL", "None", "NA", "N/A", "<NA>", "\\N", "undefined", "#N/A", "#REF!", "#VALUE!",
)  # fmt: skip
"""What pandas, polars, R, JSON, SQL, Hive, JavaScript and spreadsheets write for a missing value."""


NO_CHARACTER = "none"
CHARACTERS = {
    "tab": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|",
    "double": '"', "single": "'", "backslash": "\\",
}  # fmt: skip
"""Names of special characters, because few of them can be written in a shell and in DVC's ``-S key=value``."""
_CONTROLS = {f"x{code:02x}": chr(code) for code in range(1, 32) if chr(code) not in "\t\r\n"}
"""The characters of control that separate fields in some exports, such as ``x01`` in those of Hive."""


_NAMED = f"{', '.join(CHARACTERS)}, x01 to x1f, or one ASCII character"


def _check_character(found: str) -> str:
    single = len(found) == 1 and "\x01" <= found <= "~" and found not in "\r\n"
    if found not in ("auto", NO_CHARACTER, *CHARACTERS) and found.removeprefix("\\") not in _CONTROLS and not single:
        raise ValueError(f"allowed: auto, {NO_CHARACTER}, {_NAMED}")
    return found


def _check_encoding(found: str) -> str:
    try:
        if found != "auto":
            "".encode(found)
    except LookupError:
        raise ValueError("allowed: auto, or an encoding such as utf-8, utf-16, latin-1, cp1252") from None
    return found


def character(name: str) -> str | None:
    """The character that a key of the section ``format`` names, or None for ``none``."""
    known = CHARACTERS | _CONTROLS
    return None if name == NO_CHARACTER else known.get(name, known.get(name.removeprefix("\\"), name))


def character_name(mark: str | None) -> str:
    """The name of a special character, as `character` takes it."""
    known = CHARACTERS | _CONTROLS
    return next((name for name, held in known.items() if held == mark), mark or NO_CHARACTER)


def _check_separator(found: str) -> str:
    if found == NO_CHARACTER:
        raise ValueError(f"allowed: auto, {_NAMED}")
    return _check_character(found)


Character = Annotated[str, AfterValidator(_check_character)]
Separator = Annotated[str, AfterValidator(_check_separator)]


@dataclass(frozen=True, config=STRICT)
class Columns:
    """The column names of your own log, or the positions of columns (from 1) where a text file has no header."""

    user: str | Position = USER
    """Integers or strings."""
    item: str | Position = ITEM
    """Integers or strings."""
    timestamp: str | Position | None = TIMESTAMP
    """Numbers (seconds, milliseconds, microseconds or nanoseconds), dates, ISO 8601 strings, or strings in the form of
    ``time_format``. Null: the log has no times, and its rows are in order."""
    rating: str | Position | None = None
    """Null: the log has no rating, or it is not read."""

    def __post_init__(self) -> None:
        if len(set(self.by_key.values())) < sum(found is not None for found in vars(self).values()):
            raise ValueError("allowed: different column names")

    @property
    def by_key(self) -> dict[str, str]:
        """The names of the columns that are read, by the column of the log that each becomes."""
        named = {USER: self.user, ITEM: self.item, TIMESTAMP: self.timestamp, RATING: self.rating}
        return {key: str(name) for key, name in named.items() if name is not None}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Format:
    """How text files are written. ``auto`` is decided from the whole file, and refused if several answers fit."""

    separator: Separator = "auto"
    """Of fields: ``tab``, ``space``, ``comma``, ``semicolon``, ``pipe``, ``x01`` to ``x1f``, or one character."""
    quote: Character = "auto"
    """Around fields: ``double``, ``single`` or one character, or ``none`` if quotes are text."""
    escape: Character = "auto"
    """Before a character that is text: ``backslash`` or one character, or ``none``."""
    header: bool | Literal["auto"] = "auto"
    """False: there is none, and columns are given by their position. ``auto``: the first line, unless it looks like
    data."""
    encoding: Annotated[str, AfterValidator(_check_encoding)] = "auto"
    """A name that Python knows. ``auto``: UTF-8, or what a byte order mark says."""

    def __post_init__(self) -> None:
        given = [mark for mark in (self.separator, self.quote, self.escape) if mark not in ("auto", NO_CHARACTER)]
        if len({character(mark) for mark in given}) < len(given):
            raise ValueError("allowed: different characters for separator, quote and escape")


_DIRECTIVE = r"%(?:[-_0]?[aAbBcCdDeFgGhHIjklmMnpPqrRsStTuUVwWxXyYz+]|%|\.[369]?f|:{1,3}z|#z)"
"""What stands for a part of a time in the formats of polars."""
_PARTS = {"F": "Ymd", "D": "mdY", "x": "mdY", "T": "HMS", "X": "HMS", "R": "HM", "y": "Y", "b": "m", "B": "m", "h": "m",
          "e": "d", "k": "H"}  # fmt: skip
"""The parts of a time that other letters stand for."""


def _check_time_format(found: str) -> str:
    if not re.search(r"%[YyGgFDscx+]", found):
        raise ValueError("allowed: a strftime format with a year, such as %d.%m.%Y %H:%M")
    if "%Z" in found:
        raise ValueError("allowed: %z for offsets such as +0100, or the zone's name itself; times are then read as UTC")
    if re.search(r"(?<!\.)%f", found):
        raise ValueError("allowed: fractions of a second as %.f right after %S")
    if unknown := re.search("%.?", re.sub(_DIRECTIVE, "", found.replace(".%f", ""))):
        raise ValueError(f"allowed: a strftime format such as %d.%m.%Y %H:%M, in which {unknown[0]} has no meaning")
    letters = (match[-1] for match in re.findall(_DIRECTIVE, found) if not match.endswith(("%", "f", "z")))
    parts = "".join(_PARTS.get(letter, letter) for letter in letters)
    if twice := next((part for part in parts if parts.count(part) > 1), None):  # polars takes the last one
        raise ValueError(
            f"allowed: each part of a time once, but %{twice} is there twice (%m is the month, %M the minute, %S the "
            "second)"
        )
    if "d" in parts and "m" not in parts:
        raise ValueError("allowed: a month (%m, or %b for its name) with the day %d; %M is the minute")
    return found


def _as_name(found: object) -> object:
    return str(found) if type(found) is int else found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Events:
    """The kinds of events that are kept of your own log, if a column names them, as in ``view``, ``cart``, ``buy``."""

    column: Annotated[str, BeforeValidator(_as_name)] | None = None
    """Its name, or its position where a text file has no header. Integers or strings. Null: all rows are kept."""
    keep: tuple[str | int, ...] = ()
    """Values of that column."""

    def __post_init__(self) -> None:
        if (self.column is None) != (len(self.keep) == 0):
            raise ValueError(
                "allowed: a column together with the values to keep "
                f"({stated({'download.events.column': 'event', 'download.events.keep': ['purchase']})}), or neither"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Download:
    """Where the raw log comes from and how it is read."""

    mirror: str | None = None
    """A directory that already holds the raw files, for machines without internet."""
    columns: Columns = field(default_factory=Columns)
    format: Format = field(default_factory=Format)
    min_rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Keep ratings of at least this. Null: the data set's own rule (the paper: above 3), all of your own log."""
    events: Events = field(default_factory=Events)
    ties: TieOrder = "shuffle"
    """Events of a user with equal times: ``shuffle`` orders them by a hash of seed, user and item, so that the order of
    rows has no influence; ``row_order`` keeps the order of rows."""
    duplicates: Literal["keep", "drop"] = "keep"
    """``drop`` keeps the first of the rows that have the same user, item and time."""
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

    def tie_seed(self, seed: int) -> int | None:
        """The seed that shuffles ties; None in row order."""
        return seed if self.ties == "shuffle" else None

    def __post_init__(self) -> None:
        headless = self.format.header is False
        for key, found in vars(self.columns).items():
            if found is not None and isinstance(found, int) != headless:
                wanted = "positions from 1, because format.header is false," if headless else "names"
                columns = [name for name, column in vars(self.columns).items() if column is not None]
                positions = stated({f"download.columns.{name}": at for at, name in enumerate(columns, start=1)})
                more = (
                    f" ({positions}, as the columns are)"
                    if headless
                    else f"; positions need {stated({'download.format.header': False})}"
                )
                raise ValueError(f"allowed: {wanted} in columns, where {key} is {found!r}{more}")


def _check_moment(found: int | str) -> int | str:
    try:
        if isinstance(found, str):
            dt.datetime.fromisoformat(found)
    except ValueError:
        raise ValueError("allowed: a date such as 2024-01-31, with a time 2024-01-31T12:00, or a Unix time") from None
    return found


Moment = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_check_moment)]
"""A Unix time (seconds, milliseconds, microseconds or nanoseconds, by its size) or ISO 8601, UTC without an offset."""


def _check_memory(found: object) -> object:
    if found != "auto" and not (isinstance(found, str) and re.fullmatch(r"[1-9][0-9]{0,5}GiB", found)):
        raise ValueError("allowed: auto, or whole GiB such as 8GiB")
    return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Split:
    """How the log becomes train, validation and test."""

    strategy: Literal["temporal", "leave_one_out"] = "temporal"
    """``leave_one_out`` is for logs with an order but no clock."""
    test_fraction: Share = 0.1
    """Temporal: the share of all interactions, the latest ones, that form the future."""
    test_from: Moment | None = None
    """Temporal: the moment t* at which the future begins, instead of `test_fraction`. It is the same for every log that
    grows, so that results of several days can be compared."""
    test_until: Moment | None = None
    """Read the log as if it ended before this moment. ``cutrec backtest`` ends its windows by it."""
    validation: Literal["users", "time"] = "users"
    """Temporal: what validates, which decides when training stops and which settings are best.

    ``users``: sequences of random users, up to t*. It asks how well a model continues the sequences of people whom it
    has not seen, in the time that it was trained on. Everybody else trains up to t*, so the tested model is as recent
    as one that is trained today for tomorrow.
    ``time``: the last `test_fraction` of the interactions before t*, of all users, by the rules of the test. It asks
    the question of the test, one period earlier, so validation and test metrics can be compared; but the tested model
    knows neither the interactions nor the new items of that period, and is one period old when the test begins.
    "Time to Split" (arXiv 2507.16289) compares both."""
    target: TargetChoice = "last"
    """Which of a user's held-out interactions is the target; those before it are the input, from the test period too.

    ``last``: far into the period, with all that the user did before as input. ``first``: the next thing that a user
    does after training ended, soon after t* and with the input that training ended with; the question of lists that
    are computed once. ``random``: a moment that users choose, between the two. ``successive``: each of them, with all
    before it as input; the question of lists that are computed again after every interaction. A user's metric is then
    the mean over the user's targets, and each user counts once. Histories are written once per target, so this needs
    more disk space and time. Validation by time chooses in the same way, validation by users always takes the last
    interaction. "Time to Split" compares these choices."""
    seen_targets: Literal["keep", "drop"] = "keep"
    """``drop``: an interaction with an item that the user has had before is no target, but stays in the inputs of
    later ones. It asks for discoveries only; where `evaluate.filter_seen` is true, no list can hold the others."""
    holdout: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Leave-one-out: how many of each user's last interactions are held out for the test, and as many before them for
    validation. `target` chooses one of them."""
    validation_users: Share = 0.05
    """Temporal, validation by users: the share of the users of the past whose sequences validate."""
    min_item_count: MinCount = "auto"
    """Drop items with fewer interactions. ``auto``: 5 for temporal, none for leave_one_out."""
    min_user_count: MinCount = "auto"
    """Drop users with fewer interactions, after the items. ``auto``: 3 for temporal, none for leave_one_out."""
    memory: Annotated[str, BeforeValidator(_check_memory)] = "auto"
    """``8GiB`` or another size: what the split may take. A log that needs more is split in parts of its users, through
    files beside the split; histories, ids and targets stay the same. ``auto``: in memory up to 2^28 interactions, and
    in parts of about 2^26 beyond. The number of parts depends on this and on the number of interactions only."""

    @property
    def memory_bytes(self) -> int | None:
        """The bound of `memory`; None without one."""
        return None if self.memory == "auto" else int(self.memory.removesuffix("GiB")) << 30

    def __post_init__(self) -> None:
        if self.strategy == "leave_one_out" and self.test_from is not None:
            raise ValueError(
                f"allowed: test_from {stated_value(None)} with strategy leave_one_out, or strategy temporal"
            )
        if self.strategy == "leave_one_out" and self.validation != "users":
            raise ValueError("allowed: validation users with strategy leave_one_out, or strategy temporal")
        if self.strategy == "temporal" and self.holdout != 1:
            raise ValueError("allowed: holdout 1 with strategy temporal, or strategy leave_one_out")

    def min_counts(self, strategy: str | None = None) -> tuple[int | None, int | None]:
        """The minimum counts of items and of users; None keeps all. ``auto`` is that of another strategy if given."""
        auto = (5, 3) if (strategy or self.strategy) == "temporal" else (None, None)
        items, users = self.min_item_count, self.min_user_count
        return auto[0] if items == "auto" else items, auto[1] if users == "auto" else users
