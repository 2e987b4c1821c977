"""The state of a training run, and how it is kept on disk so that a killed run resumes as if nothing had happened."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cce_kernels.shard import Rows, Shard
from rec_models.errors import CheckpointError
from rec_models.training.checkpoint import read_payload, save_atomically, save_rows
from rec_models.training.rows_file import read_rows, sums_of

_RUN_FORMAT, _SHARDED_FORMAT = "rec_models.run/1", "rec_models.run/2"  # the second has rows in a file beside it
_TABLE = "item_table"  # of an encoder's state dict


@dataclass
class RunState:
    """Counters of a run. Dropout and negatives are functions of (seed, step), so there is no generator state."""

    epoch: int = 0  # the epoch in progress, from 0
    index: int = 0  # batches of that epoch that are done
    step: int = 0  # optimizer steps done in total
    loss_sum: float = 0.0  # sum of the loss over the tokens of the epoch in progress
    loss_tokens: int = 0  # tokens in that sum
    places: int = 0  # input places read in the epoch in progress
    loop_seconds: float = 0.0  # of the training loop in the epoch in progress, without checkpoints and validation
    waited_seconds: float = 0.0  # of these, those in which the loop waited for batches
    whole_seconds: float = 0.0  # seconds of the whole fit so far
    peak_memory_gib: float = 0.0  # peak memory of the whole fit so far
    loop_peak_memory_gib: float = 0.0  # of the training loop so far, with weights and optimizer, without validation
    best_score: float | None = None  # best validation score so far
    best_epoch: int = 0  # the epoch, from 1, whose weights are kept; 0 before the first
    bad_epochs: int = 0  # epochs since the best one
    finished: bool = False  # training is over
    tracked: str = ""  # the tracker that follows the training, and its name of the run: mlflow:ID
    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    # mean loss per token of the last optimizer steps, if read; the checkpoint has their number, a file beside it all
    step_losses: array[float] = field(default_factory=lambda: array("d"))

    def end_epoch(self, metrics: dict[str, float], score: float | None, validation_seconds: float) -> dict[str, float]:
        """Close the epoch in progress: add its row to the history and compare its score with the best so far.

        The score is the metric of its validation that decides; None: there was none, the last epoch is the best.
        Returns the row; `bad_epochs` is 0 if the epoch is the best so far.
        """
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "train_loss": self.loss_sum / self.loss_tokens,
            "train_seconds": self.loop_seconds,
            "waited_seconds": self.waited_seconds,
            "validation_seconds": validation_seconds,
            "tokens": self.places,
            "tokens_per_second": self.places / max(self.loop_seconds, 1e-9),
        } | {f"validation_{name}": value for name, value in metrics.items()}
        self.history.append(row)
        if score is None or self.best_score is None or score > self.best_score:
            self.best_score, self.best_epoch, self.bad_epochs = score, self.epoch + 1, 0
        else:
            self.bad_epochs += 1
        self.epoch += 1
        self.restart_epoch()
        return row

    def restart_epoch(self) -> None:
        """Begin the epoch in progress again, with the weights as they are."""
        self.index = 0
        self.loss_sum, self.loss_tokens, self.places = 0.0, 0, 0
        self.loop_seconds, self.waited_seconds = 0.0, 0.0


class Tensors(NamedTuple):
    """What a state holds beside its counters: state dicts, as torch makes them."""

    encoder: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]  # of the precision plugin, empty unless in 16-mixed
    average: dict[str, Any]  # of the averaged encoder, empty without averaging

    def split(self, index: int) -> tuple[Tensors, dict[str, Tensor]]:
        """The same without the item table and its moments, and these by name; `index` is the optimizer's of the table.

        All of them have a row for each item.
        """
        rows, rest = {}, self
        for name in ("encoder", "average"):
            kept = dict(getattr(self, name))
            if _TABLE in kept:
                rows[f"{name}.{_TABLE}"] = kept.pop(_TABLE)
            rest = rest._replace(**{name: kept})
        state = dict(self.optimizer.get("state", {}))
        if index in state:
            rows |= {f"optimizer.{name}": value for name, value in state[index].items() if value.dim()}
            state[index] = {name: value for name, value in state[index].items() if not value.dim()}
        return rest._replace(optimizer=self.optimizer | {"state": state}), rows

    def joined(self, index: int, rows: Mapping[str, Tensor]) -> Tensors:
        """The inverse of `split`."""
        joined = Tensors(*(dict(part) for part in self))
        for name, values in rows.items():
            part, _, key = name.partition(".")
            if part == "optimizer":
                state = dict(joined.optimizer["state"])
                state[index] = state[index] | {key: values}
                joined.optimizer["state"] = state
            else:
                getattr(joined, part)[key] = values
        return joined


class Processes(NamedTuple):
    """The processes of a run, which decide what its batches are."""

    number: int = 1
    batch_size: int | None = None  # of each; None: not known

    def is_same_order(self, other: Processes) -> bool:
        """Whether a batch of all processes has the same examples."""
        if None in (self.batch_size, other.batch_size):
            return self.number == other.number
        return self.number * (self.batch_size or 0) == other.number * (other.batch_size or 0)

    def __str__(self) -> str:
        of = "" if self.batch_size is None else f" of {self.batch_size} sequences"
        return f"{self.number} process{'es' * (self.number > 1)}{of}"


def run_of(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Processes]:
    """What makes a run the same one, and its processes, from its settings in sections: where the table is does not."""
    training, batching = (dict(settings.get(name, {})) for name in ("training", "batching"))
    processes = Processes(training.pop("devices", 1), batching.pop("batch_size", None))
    training.pop("table", None)
    changed = {"training": training, "batching": batching}
    return {name: changed.get(name, section) for name, section in settings.items()}, processes


class Resumed(NamedTuple):
    """A run that was read from disk: what `RunFolder.save` wrote, and where it was."""

    state: RunState
    tensors: Tensors
    path: Path
    rows: dict[str, Any] | None = None  # the file with the rows of a sharded table, and its checksums
    remark: str = ""  # what other processes than those that wrote it make of it

    def own(self, index: int, rows: Rows) -> Tensors:
        """All tensors, of the item table and its moments own rows only; `index` as of `Tensors.split`.

        Raises:
            CheckpointError: the file of the rows is missing or damaged.
        """
        if self.rows is not None:
            try:
                own = read_rows(self.path.parent / self.rows["file"], rows, self.rows["sums"])
            except CheckpointError as error:  # of some processes perhaps: the others have read theirs
                raise CheckpointError(f"{error}; rm {self.path} resumes from the state before it, if any") from error
            return self.tensors.joined(index, own)
        if rows.ranks == 1:
            return self.tensors
        rest, whole = self.tensors.split(index)
        return rest.joined(index, {name: rows.of(values) for name, values in whole.items()})


class RunFolder:
    """The folder of a run's checkpoints: the last two states, and the best model of each.

    The identity has plain values (settings, catalogue size) that a state must share to belong to this run; `processes`
    may differ, in their number, and in their batch size if all together have the same.
    """

    def __init__(self, path: Path, identity: dict[str, Any], processes: Processes = Processes()) -> None:  # noqa: B008
        self.path = path
        self.last = path / "last.ckpt"
        self.previous = path / "previous.ckpt"
        self.step_losses = path / "step_losses.bin"  # float64, appended to: a checkpoint does not grow with the steps
        self._losses_saved = 0
        self._identity, self._processes = identity, processes
        self._kept_best = [0, 0]  # best epoch of the previous and of the last state
        self._kept_rows: list[str | None] = [None, None]  # the files of rows of the two
        self.newest: Path | None = None  # the newest intact state of this run that this object saved or read

    def best(self, epoch: int) -> Path:
        """The model of the best epoch, from 1."""
        return self.path / f"best-{epoch}.safetensors"

    @property
    def newest_best(self) -> Path | None:
        """The best model that `newest` refers to; None before the first validation."""
        path = self.best(self._kept_best[1])
        return path if self.newest is not None and path.is_file() else None

    def save(
        self,
        state: RunState,
        tensors: Tensors,
        index: int = 0,
        shard: Shard | None = None,
    ) -> None:
        """Write a state; the previous one stays as a fallback, with the best model that it refers to.

        A finished run needs only the counters and the best model: the same run then ends at once. With a shard all
        processes call this, and each writes its rows of the item table and its moments; `index` as of `Tensors.split`.
        """
        if state.finished:
            tensors = Tensors({}, {}, tensors.scaler, {})
        self.path.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] | None = None
        if shard is not None:
            tensors, rows = tensors.split(index)
            if rows:
                kept = {"file": f"rows-{state.step}.safetensors", "sums": sums_of(rows, shard)}
                save_rows(self.path / kept["file"], {}, rows, rows, shard)
            if shard.rows.rank > 0:
                self.newest = self.last
                return
        counters = vars(state) | {"step_losses": len(state.step_losses)}
        form = _RUN_FORMAT if kept is None else _SHARDED_FORMAT
        payload: dict[str, Any] = {"format": form, "identity": self._identity, "state": counters}
        payload |= {"processes": tuple(self._processes), "rows": kept} | tensors._asdict()
        self._append_losses(state.step_losses)
        if self.newest == self.last:  # a damaged file never replaces an intact one
            self.last.replace(self.previous)
        save_atomically(payload, self.last)
        self.newest = self.last
        self._kept_best = [self._kept_best[1], state.best_epoch]
        self._kept_rows = [self._kept_rows[1], None if kept is None else kept["file"]]
        if state.finished:
            self.previous.unlink(missing_ok=True)
            self._kept_best[0], self._kept_rows[0] = state.best_epoch, None
        wanted = {self.best(epoch).name for epoch in self._kept_best} | set(self._kept_rows)
        for path in (*self.path.glob("best-*.safetensors"), *self.path.glob("rows-*.safetensors")):
            if path.name not in wanted:
                path.unlink()

    def resume(self) -> Resumed | None:
        """The newest intact state of this run, or None.

        A file that is damaged or belongs to another run is skipped with one line of warning.
        """
        for part in self.path.glob("*.part"):  # of a process that was killed while writing
            part.unlink()
        for path in (self.last, self.previous):
            if not path.is_file():
                continue
            try:
                payload = read_payload(path, (_RUN_FORMAT, _SHARDED_FORMAT))
                identity, before = payload["identity"], Processes(*payload.get("processes", ()))
                if "processes" not in payload:  # of an earlier version
                    identity, before = run_of(identity)
                same_order = before.is_same_order(self._processes)
                if identity != self._identity or not (same_order or before.batch_size == self._processes.batch_size):
                    raise CheckpointError(f"{path}: of a run with other settings")
                losses = payload["state"].pop("step_losses", [])
                state = RunState(**payload["state"], step_losses=self._read_losses(losses))
                kept = payload.get("rows")
                if kept is not None and not (self.path / kept["file"]).is_file():
                    raise CheckpointError(f"{path}: {kept['file']} is missing beside it")
                if state.best_epoch and not self.best(state.best_epoch).is_file():
                    raise CheckpointError(f"{path}: {self.best(state.best_epoch).name} is missing beside it")
                self._losses_saved = 0 if isinstance(losses, list) else len(state.step_losses)
                self._kept_best = [state.best_epoch, state.best_epoch]
                self._kept_rows = [None if kept is None else kept["file"]] * 2
                self.newest = path
                remark = "" if before == self._processes else f"; {self._processes} after {before}: exact"
                if not same_order and not state.finished:
                    remark = f"; {self._processes} after {before} read other batches: the epoch starts again"
                    state.restart_epoch()
                tensors = Tensors(*(payload.get(name, {}) for name in Tensors._fields))
                return Resumed(state, tensors, path, kept, remark)
            except (CheckpointError, KeyError, TypeError) as error:
                sys.stderr.write(f"warning: not resuming from this checkpoint: {error}\n")
        return None

    def _append_losses(self, losses: array[float]) -> None:
        """Write the losses that are not in the file yet, over what a run that was killed has written there since."""
        if fresh := losses[self._losses_saved :]:
            self.step_losses.touch()
            with self.step_losses.open("r+b") as file:
                file.seek(losses.itemsize * self._losses_saved)
                fresh.tofile(file)
        self._losses_saved = len(losses)

    def _read_losses(self, kept: int | list[float]) -> array[float]:
        """The first `kept` losses of the file; none if it has fewer. An older state has the losses themselves."""
        if isinstance(kept, list):
            return array("d", kept)
        written = self.step_losses.read_bytes() if self.step_losses.is_file() else b""
        size = kept * array("d").itemsize
        return array("d", written[:size] if len(written) >= size else b"")
