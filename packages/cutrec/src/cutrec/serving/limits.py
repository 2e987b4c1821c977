"""What the server accepts. The options of ``cutrec serve`` are these fields."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cutrec.errors import StageError

if TYPE_CHECKING:
    from cutrec.serving.schema import Recommend, Similar


def _limit(default: int, text: str) -> int:
    limit: int = field(default=default, metadata={"help": text})
    return limit


@dataclass(frozen=True)
class Limits:
    """Limits on what is asked and on what waits; larger requests get a 4xx, too many of them a 503."""

    max_k: int = _limit(1_000, "items per list")
    max_ids: int = _limit(10_000, "ids of a history, of exclude, or of candidates")
    max_lists: int = _limit(256, "lists per request, and lists that are ranked together")
    max_body: int = _limit(1_000_000, "bytes of a request")
    max_waiting: int = _limit(2_048, "lists that wait to be ranked; beyond it requests get a 503")
    timeout: int = _limit(5, "seconds until a request that still waits gets a 503, and a slow body a 408")

    def refuse(self, requests: Sequence[Recommend | Similar]) -> None:
        """Refuse a body whose lists are too long or too many.

        Raises:
            StageError: naming the field.
        """
        _most("body", "lists", len(requests), self.max_lists)
        for request in requests:
            _most("k", "items", request.k, self.max_k)
            for name in ("history", "exclude", "candidates"):
                _most(name, "ids", len(getattr(request, name, None) or ()), self.max_ids)
            _most("items", "lists", len(getattr(request, "items", ())), self.max_lists)


def _most(name: str, what: str, found: int, most: int) -> None:
    if found > most:
        raise StageError(f"{name}: found {reprlib.repr(found)} {what}, allowed: at most {most}")
