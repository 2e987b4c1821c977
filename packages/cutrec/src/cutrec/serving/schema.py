"""Requests and answers as JSON."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag
from typing_extensions import TypeAliasType

Id = int | str
"""An id as in the log; 7 and "7" are the same id."""
Ids = TypeAliasType("Ids", Annotated[list[Id], FailFast()])  # the first error is enough: a body may hold many
_STRICT = ConfigDict(strict=True, extra="forbid")


class Recommend(BaseModel):
    """Whom to recommend for, and what may be recommended."""

    model_config = _STRICT

    history: Ids = Field(description="Items of the user, oldest first. Unknown ones are skipped and reported.")
    k: int = Field(default=10, ge=1, description="Items in the list; it is shorter if fewer items are left.")
    filter_seen: bool = Field(default=True, description="Leave the items of the history out.")
    exclude: Ids = Field(default=[], description="Further items that are left out.")
    candidates: Ids | None = Field(
        default=None, description="The only items that may be recommended, such as those in stock."
    )
    fallback: Literal["popularity"] | None = Field(
        default=None,
        description="Without a known item in the history, popularity lists the most popular items.",
    )


class Similar(BaseModel):
    """Items whose neighbors are wanted."""

    model_config = _STRICT

    items: Ids = Field(min_length=1, description="Items. Unknown ones are reported and get no list.")
    k: int = Field(default=10, ge=1, description="Neighbors of each item, without the item itself.")


def _one_or_several(body: Any) -> str:
    return "several" if isinstance(body, list) else "one"


_Several = TypeAliasType("_Several", Annotated[list[Recommend], FailFast(), Field(min_length=1)])
RecommendBody = Annotated[
    Annotated[Recommend, Tag("one")] | Annotated[_Several, Tag("several")],
    Discriminator(_one_or_several),
]
"""A request, or several of them in a list, which get a list of answers."""


class Unknown(BaseModel):
    """Ids that the model does not know and that were skipped, each once."""

    history: list[Id] = []
    exclude: list[Id] = []
    candidates: list[Id] = []


class Recommended(BaseModel):
    """A list, best item first."""

    items: list[Id]
    scores: list[float]
    unknown: Unknown
    model: str = Field(description="The first 12 digits of the SHA-256 of the model that ranked.")


class Neighbors(BaseModel):
    """The neighbors of an item, nearest first."""

    item: Id
    items: list[Id]
    scores: list[float] = Field(description="Cosines.")


class SimilarItems(BaseModel):
    """The neighbors of each known item, in the order of the request."""

    neighbors: list[Neighbors]
    unknown: list[Id]
    model: str


class Error(BaseModel):
    """What was wrong, in one sentence."""

    error: str


_ALLOWED = {
    "missing": "a value",
    "int_type": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "too_short": "at least one",
}


def sentence(error: dict[str, Any]) -> str:
    """An error of pydantic as ``name: found X, allowed: Y``, in ASCII."""
    kind = error["type"]
    if kind == "json_invalid":
        return f"body: found no valid JSON ({error.get('ctx', {}).get('error', 'damaged')}), allowed: JSON"
    tags = ("body", "one", "several", "int", "str", "list[union[int,str]]")
    path = [str(part) for part in error["loc"] if part not in tags]
    path = [part[:40] for part in path]
    in_list = len(error["loc"]) > 1 and isinstance(error["loc"][-2], int)
    if in_list and error["loc"][-1] in ("int", "str"):
        allowed = "ids, whole numbers or strings"
    else:
        allowed = _ALLOWED.get(kind, error["msg"].removeprefix("Input should be "))
    found = "nothing" if kind == "missing" else reprlib.repr(error.get("input"))
    if kind == "extra_forbidden":
        request = Similar if len(error["loc"]) == 2 else Recommend  # which has a tag between the body and the key
        found, allowed = "an unknown key", ", ".join(request.model_fields)
    return f"{'.'.join(path) or 'body'}: found {found}, allowed: {allowed}".encode("ascii", "backslashreplace").decode()
