"""What a person sees while a model trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_QUIET_SECONDS = 30.0


class Progress:
    """Writes to stderr.

    Args:
        max_epochs: epochs at most.
        enabled: False on all ranks but the first.
    """

    def __init__(self, max_epochs: int, *, enabled: bool) -> None:
        self._max_epochs = max_epochs
        self._enabled = enabled
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._last_line = time.monotonic()
        self._title = ""

    def say(self, line: str) -> None:
        """One line."""
        if self._enabled:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
            self._last_line = time.monotonic()

    def start_epoch(self, epoch: int, done: int, total: int) -> None:
        """Args: epoch from 0; batches done of it, of how many."""
        self._title = f"epoch {epoch + 1}/{self._max_epochs}"
        if self._enabled and self._terminal:
            self._bar = tqdm(desc=self._title, initial=done, total=total, unit="batch", leave=False, file=sys.stderr)

    def update(self, done: int, total: int, loss: float, tokens_per_second: float, memory_gib: float) -> None:
        """Args: batches done of how many; mean loss of the epoch so far; speed; peak memory."""
        values = {
            "loss": f"{loss:.4f}",
            "tokens/s": f"{tokens_per_second:,.0f}",
            "peak GiB": f"{memory_gib:.2f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line > _QUIET_SECONDS:
            self.say(f"{self._title}: batch {done}/{total}, " + ", ".join(f"{k} {v}" for k, v in values.items()))

    def end_epoch(self, row: Mapping[str, float], score: float | None, *, best: bool) -> None:
        """Args: the epoch's row of the history; its validation score; whether it is the best so far."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        validation = "" if score is None else f", validation ndcg@10 {score:.4f}{' (best)' if best else ''}"
        self.say(
            f"{self._title}: loss {row['train_loss']:.4f}{validation}, "
            f"{row['tokens_per_second']:,.0f} tokens/s, {row['train_seconds']:.1f} s"
        )
