"""What a point's batches are like: catalogue, tokens of a usual and of the largest batch, steps of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutrec import config as params
from cutrec.outputs import read_json
from cutrec.paths import DATA
from cutrec.workflow import training_inputs as of_point
from pipelines.planner import twin_logs


@dataclass(frozen=True)
class Sizes:
    """Sizes of a point's batches."""

    items: int
    """V."""
    rows: int
    """B, sequences of a batch."""
    tokens: float
    """T, real places of a mean batch: padding is packed away."""
    most_tokens: float
    """T of the largest batch of an epoch, as expected."""
    targets_share: float
    """M / T: places that have a target."""
    mean_length: float
    """Of a history, cut to what the network reads."""
    steps: int
    """Of an epoch."""
    validation_users: int

    def targets(self, tokens: float) -> float:
        """M, the tokens that the loss sees."""
        return tokens * self.targets_share


def sizes_of(point: params.Params) -> Sizes:
    """The sizes of a point.

    A published data set is planned by the twin of its name. ``demo`` and a log of one's own are read from
    ``data/split``, which the stage ``split`` leaves.

    Raises:
        ParamsError: a log that is neither, before its split.
        DataError: an unknown twin.
    """
    from rec_data.sources.synthetic import TWINS

    name = point.dataset
    if name in TWINS:
        name = f"twin:{name}"
    if name.startswith("twin:"):
        log = twin_logs.twin_log_of(name.removeprefix("twin:"), point.split)
        return sizes_from(point, log.lengths, log.num_items, log.train_users, log.validation_users)
    folder = DATA / "split"
    summary = folder / "summary.json"
    known = f"{', '.join(TWINS)}, twin:NAME or twin:NAME@SCALE of one of them"
    other = "any other once `dvc exp run split -S dataset=...` has split it"
    if not summary.is_file():
        raise params.ParamsError(f"dataset: found {name!r}, allowed: {known}; {other}")
    downloaded = read_json(DATA / "download" / "summary.json")["dataset"]
    if downloaded != name:
        raise params.ParamsError(
            f"dataset: found {name!r}, allowed: {known}, {downloaded}, whose split is in {folder}; {other}"
        )
    from rec_data.sequences.store import SequenceStore

    lengths = SequenceStore.open(folder / "sequences" / "train.arrow").lengths.numpy()
    validation = len(SequenceStore.open(folder / "sequences" / "validation.arrow"))
    usable = lengths[lengths >= 2]
    return sizes_from(point, usable, _catalogue(folder / "items.parquet"), len(usable), validation)


def sizes_from(
    point: params.Params, lengths: npt.NDArray[np.int64], items: int, train_users: int, validation_users: int
) -> Sizes:
    """The sizes of a point from the lengths of its training histories.

    The largest of n batches is expected sqrt(2 ln n) standard deviations above the mean batch: sums of many independent
    lengths are close to normal.

    Args:
        point: batch size, length, model.
        lengths: [n] int64 of all training histories, or of a fair sample of them, each at least 2.
        items: V.
        train_users: training histories.
        validation_users: users ranked after an epoch.
    """
    masked = point.model == "bert4rec"
    read = _inputs(point, lengths, 0 if masked else 1)
    examples = max(1, round(train_users * len(read) / len(lengths)))
    steps = math.ceil(examples / point.batch_size)
    mean, deviation = float(read.mean()), float(read.std())
    rows = min(point.batch_size, examples)
    most = rows * mean + math.sqrt(2 * math.log(max(steps, 2)) * rows) * deviation
    return Sizes(
        items=items,
        rows=rows,
        tokens=rows * mean,
        most_tokens=min(most, rows * float(read.max())),
        targets_share=point.backbone.mask_prob if masked else 1.0,
        mean_length=mean,
        steps=steps,
        validation_users=validation_users,
    )


def records_steps(point: params.Params) -> bool:
    """Whether a GPU records whole steps of the point as CUDA graphs."""
    return of_point.training_settings(point).records_steps(of_point.loss_settings(point))


def filled_up(places: float) -> float:
    """Places of a recorded batch: `rec_models.training.cuda_graphs.bucket_of`, which imports torch."""
    count = max(1, round(places))
    step = max(16, 1 << max(0, (count - 1).bit_length() - 5))
    return float(-(-count // step) * step)


def _inputs(point: params.Params, lengths: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    """[n] what the network reads of each example: of each history, or of each window that slides over one."""
    if point.train.window is None:
        return np.minimum(lengths - shift, point.max_seq_len)
    from rec_data.sequences.examples import sliding_windows

    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sliding_windows(offsets, point.max_seq_len + shift, point.train.window).lengths - shift


def _catalogue(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
