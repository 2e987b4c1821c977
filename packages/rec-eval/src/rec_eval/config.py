"""The section of params.yaml about evaluation, as a strict frozen dataclass. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

Cutoff = Annotated[int, Field(ge=1, le=10_000)]


def _check_cutoffs(k: tuple[int, ...]) -> tuple[int, ...]:
    if 10 not in k:
        raise ValueError("allowed: a list with 10 in it: the metric summary is at 10")
    if len(set(k)) < len(k):
        raise ValueError("allowed: a list without repeats")
    return k


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class Evaluate:
    """Ranking the catalogue and measuring the ranking."""

    k: Annotated[tuple[Cutoff, ...], AfterValidator(_check_cutoffs)] = (1, 5, 10, 20, 100)
    """Lengths of the lists that are measured."""
    filter_seen: bool = True
    """Leave items of the user's own history out of the ranking."""
    reference: Literal["train", "test_input"] = "train"
    """The log that Coverage and Surprisal count in. ``test_input`` is the paper's choice."""
    batch_users: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Users ranked at once."""
