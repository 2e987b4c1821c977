"""What a person sees of a run: progress on stderr, ``history.csv``, TensorBoard curves."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ResultsFolder:
    """The folder ``out`` of `rec_models.training.loop.fit`, created when first written.

    Fabric's loggers would not do: its CSV logger chooses file name and column order and appends to what an earlier run
    left, and both would repeat the epochs before a resume.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._logged = 0
        self._curves: SummaryWriter | None = None

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write all rows to ``history.csv``, and those that are not yet logged to ``tensorboard/``.

        The first call replaces the curves that an earlier run, or this run before it was killed, left in the folder:
        its epochs are in the history, and TensorBoard would show them twice.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not history:
            return
        temporary = self.path / "history.csv.part"
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(history[0]), restval="")
            writer.writeheader()
            writer.writerows(history)
        temporary.replace(self.path / "history.csv")
        if self._logged == 0:
            shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        if len(history) > self._logged:
            self._write_curves(history[self._logged :])
        self._logged = len(history)

    def take_model(self, best: Path) -> None:
        """Copy the best model to ``model.ckpt``; there is never a partial file under that name."""
        temporary = self.path / "model.ckpt.part"
        shutil.copyfile(best, temporary)
        temporary.replace(self.path / "model.ckpt")

    def close(self) -> None:
        """Close the file of TensorBoard's log."""
        if self._curves is not None:
            self._curves.close()
            self._curves = None

    def _write_curves(self, rows: Sequence[dict[str, float]]) -> None:
        """Append rows to TensorBoard's log, which is one file per run: one curve per column, over epochs."""
        if self._curves is None:
            from torch.utils.tensorboard import SummaryWriter  # half a second that using a trained model can do without

            self._curves = SummaryWriter(str(self.path / "tensorboard"))
        for row in rows:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    group, _, rest = name.partition("_")
                    tag = f"{group}/{rest}" if group in ("train", "validation") else f"train/{name}"
                    self._curves.add_scalar(tag.replace("@", "_at_"), value, int(row["epoch"]))  # it would replace @
        self._curves.flush()


_QUIET_SECONDS = 30.0


class Progress:
    """Progress on the first rank's stderr: a bar on a terminal, otherwise one line per epoch and every 30 seconds."""

    def __init__(self, max_epochs: int, *, enabled: bool) -> None:
        self._max_epochs = max_epochs
        self._enabled = enabled
        self._bar: tqdm[None] | None = None
        self._last_line = time.monotonic()
        self._title = ""

    def say(self, line: str) -> None:
        """Write one line."""
        if self._enabled:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
            self._last_line = time.monotonic()

    def start_epoch(self, epoch: int, done: int, total: int) -> None:
        """Start an epoch, from 0, of which `done` of `total` batches are done."""
        self._title = f"epoch {epoch + 1}/{self._max_epochs}"
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(desc=self._title, initial=done, total=total, unit="batch", leave=False, file=sys.stderr)

    def update(self, done: int, total: int, loss: float, tokens_per_second: float, memory_gib: float) -> None:
        """Show the batches done, the mean loss of the epoch so far, the speed and the peak memory."""
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
        """Show the epoch's row of the history, its validation score, and whether it is the best so far."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        validation = "" if score is None else f", validation ndcg@10 {score:.4f}{' (best)' if best else ''}"
        self.say(
            f"{self._title}: loss {row['train_loss']:.4f}{validation}, "
            f"{row['tokens_per_second']:,.0f} tokens/s, {row['train_seconds']:.1f} s"
        )
