"""What a person sees of a run: progress on stderr, ``history.csv``, TensorBoard curves."""

from __future__ import annotations

import csv
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rec_models.training.checkpoint import MODEL_NAME

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rec_models.training.trackers import Tracker


class ResultsFolder:
    """The folder ``out`` of `rec_models.training.loop.fit`, created when first written, and its tracker.

    Fabric's loggers would not do: its CSV logger chooses file name and column order and appends to what an earlier run
    left, and both would repeat the epochs before a resume.
    """

    def __init__(self, path: Path, tracker: Tracker | None = None) -> None:
        self.path = path
        self._tracker = tracker
        self._logged = 0
        self._logged_step = 0
        self._curves: SummaryWriter | None = None

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write all rows to ``history.csv``, and those that are not yet logged to ``tensorboard/`` and the tracker.

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
        if self._tracker is not None:
            self._tracker.log(curves_of)
        self._logged = len(history)

    def write_step_losses(self, losses: Sequence[float], step: int) -> None:
        """Log the losses of optimizer steps up to `step`, as far as they are not logged yet; after `write_history`."""
        fresh = losses[max(0, len(losses) - (step - self._logged_step)) :]
        for place, loss in enumerate(fresh, start=step - len(fresh) + 1):
            self._open_curves().add_scalar("train/step_loss", loss, place)
        self._logged_step = step

    def take_model(self, best: Path) -> None:
        """Copy the best model to ``model.safetensors``; there is never a partial file under that name."""
        temporary = self.path / f"{MODEL_NAME}.part"
        shutil.copyfile(best, temporary)
        temporary.replace(self.path / MODEL_NAME)

    def close(self) -> None:
        """Close the file of TensorBoard's log and the run of the tracker."""
        if self._tracker is not None:
            self._tracker.close()
        if self._curves is not None:
            self._curves.close()
            self._curves = None

    def _write_curves(self, rows: Sequence[dict[str, float]]) -> None:
        """Append rows to TensorBoard's log, which is one file per run: one curve per column, over epochs."""
        curves = self._open_curves()
        for row in rows:
            for tag, value in curves_of(row).items():
                curves.add_scalar(tag, value, int(row["epoch"]))
        curves.flush()

    def _open_curves(self) -> SummaryWriter:
        if self._curves is None:
            from torch.utils.tensorboard import SummaryWriter  # half a second that using a trained model can do without

            self._curves = SummaryWriter(str(self.path / "tensorboard"))
        return self._curves


def curves_of(row: Mapping[str, float]) -> dict[str, float]:
    """The values of an epoch's row by the names of their curves, such as ``validation/ndcg_at_10``."""
    values = {}
    for name, value in row.items():
        if name not in ("epoch", "step"):
            group, _, rest = name.partition("_")
            tag = f"{group}/{rest}" if group in ("train", "validation") else f"train/{name}"
            values[tag.replace("@", "_at_")] = value  # TensorBoard would replace @, and MLflow refuses it
    return values


_QUIET_SECONDS = 30.0  # without a line before a long epoch says how far it is
_LINE_SECONDS = 5.0  # between the lines of epochs: short ones get no line each


class Progress:
    """Progress on the first rank's stderr: a bar on a terminal, otherwise a line per epoch or every few seconds."""

    def __init__(self, max_epochs: int, patience: int, *, enabled: bool) -> None:
        self._max_epochs = max_epochs
        self._patience = patience
        self._enabled = enabled
        self._bar: tqdm[None] | None = None
        self._started = time.monotonic()
        self._last_line = -math.inf  # on the same clock
        self._epoch = 0
        self._seconds = 0.0  # of the epochs that this process has ended
        self._ended = 0

    def say(self, line: str) -> None:
        """Write one line."""
        if self._enabled:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
            self._last_line = time.monotonic()

    def start_epoch(self, epoch: int, done: int, total: int) -> None:
        """Start an epoch, from 0, of which `done` of `total` batches are done."""
        self._epoch = epoch + 1
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
        elif time.monotonic() - max(self._last_line, self._started) > _QUIET_SECONDS:
            self.say(f"{self._title}: batch {done}/{total}, " + ", ".join(f"{k} {v}" for k, v in values.items()))

    def end_epoch(self, row: Mapping[str, float], score: float | None, bad_epochs: int) -> None:
        """Show the epoch's row of the history, its validation score, and how long training may still take.

        `bad_epochs` have passed since the best one. Between the first and the last epoch, lines are a few seconds
        apart.
        """
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._seconds += row["train_seconds"] + row.get("validation_seconds", 0.0)
        self._ended += 1
        is_last = self._epoch == self._max_epochs or bad_epochs == self._patience
        if is_last or time.monotonic() - self._last_line >= _LINE_SECONDS:
            self.say(
                f"{self._title}: loss {row['train_loss']:.4f}{self._validation(score, bad_epochs)}, "
                f"{row['tokens_per_second']:,.0f} tokens/s, {row['train_seconds']:.1f} s"
                + ("" if is_last else self._left(bad_epochs, may_stop=score is not None))
            )

    @property
    def _title(self) -> str:
        return f"epoch {self._epoch} of at most {self._max_epochs}"

    def _validation(self, score: float | None, bad_epochs: int) -> str:
        if score is None:
            return ""
        ago = "best" if bad_epochs == 0 else f"best {bad_epochs} epoch{'s' * (bad_epochs > 1)} ago"
        return f", validation ndcg@10 {score:.4f} ({ago})"

    def _left(self, bad_epochs: int, *, may_stop: bool) -> str:
        """When training ends: at the earliest, if no epoch is better, and at the latest."""
        left, stops_in = self._max_epochs - self._epoch, self._patience - bad_epochs
        each = self._seconds / self._ended
        longest = duration(left * each)
        if not may_stop:
            return f"; {longest} left"
        stops = f"stops in {stops_in} ({duration(stops_in * each)}) unless it improves, " if stops_in < left else ""
        return f"; {stops}at most {longest} left"


def duration(seconds: float) -> str:
    """Seconds in the unit that a reader would choose, such as ``3 min``."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
