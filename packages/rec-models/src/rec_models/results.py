"""What a run leaves for people: the best model, a CSV of its epochs, TensorBoard curves."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path


class ResultsFolder:
    """The folder ``out`` of `rec_models.training.fit`.

    Args:
        path: made when first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._logged = 0

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write all rows to ``history.csv`` and those not yet logged to ``tensorboard/``.

        The first rows of this object replace the curves that an earlier run, or this one before it was killed, left
        there: they are in the history, and TensorBoard would show both.
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
        write_curves(self.path / "tensorboard", history[self._logged :])
        self._logged = len(history)

    def take_model(self, best: Path) -> None:
        """Copy the best model to ``model.ckpt``, whole or not at all."""
        temporary = self.path / "model.ckpt.part"
        shutil.copyfile(best, temporary)
        temporary.replace(self.path / "model.ckpt")


def write_curves(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Append rows of the history to TensorBoard's log in the folder `path`: a point a column, over epochs."""
    from torch.utils.tensorboard import SummaryWriter  # half a second, which using a trained model need not wait for

    if not rows:
        return
    with SummaryWriter(str(path), filename_suffix=f".{int(rows[0]['epoch'])}") as curves:
        for row in rows:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    curves.add_scalar(_tag(name), value, int(row["epoch"]))


def _tag(name: str) -> str:
    """TensorBoard's name of a column: grouped by what it belongs to, without signs that it would replace."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}".replace("@", "_at_") if group in ("train", "validation") else f"train/{name}"
