"""Memory and time of a training run, predicted from its configuration and the sizes of its log."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from cutrec import config
from cutrec.checksums import read_output
from cutrec.config import Config
from cutrec.errors import ConfigError
from cutrec.outputs import read_json
from cutrec.paths import DATA, SPLIT
from cutrec.workflow import synthetic_split
from rec_data.sequences.examples import sliding_windows
from rec_data.sequences.store import SequenceStore
from rec_data.sources.synthetic import SHAPES
from rec_models.encoders.registry import ENCODERS
from rec_models.planning import Calibration, Memory, Seconds, Setup, Sizes, load, memory_of, seconds_of


@dataclass(frozen=True)
class Plan:
    """What is predicted for a point."""

    point: Config
    sizes: Sizes
    memory: Memory
    seconds: Seconds

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the training loop per epoch."""
        return self.seconds.step * math.ceil(self.sizes.steps / self.point.train.accumulate)


def plan(point: Config, calibration: Calibration | None = None) -> Plan:
    """Predict memory and time of a point, with the shipped constants or those of a calibration.

    Raises:
        ConfigError: settings contradict each other, or the sizes of its log are not known yet.
        SettingsError: settings contradict the catalogue.
    """
    constants = calibration or load()
    setup, sizes = setup_of(point), sizes_of(point)
    setup.loss.check_catalogue(sizes.items, sizes.items)
    return Plan(point, sizes, memory_of(setup, sizes, constants), seconds_of(setup, sizes, constants))


def setup_of(point: Config) -> Setup:
    """The settings of a point that decide what a training step does.

    Raises:
        ConfigError: settings contradict each other.
    """
    config.refuse_contradictions(point)
    return Setup(config.model_settings(point), config.loss_settings(point), config.training_settings(point))


def sizes_of(point: Config) -> Sizes:
    """The sizes of a point's log and batches.

    A published log has the sizes of its synthetic twin. The demo and a log of your own are read from ``data/split``,
    the output of the stage ``split``.

    Raises:
        ConfigError: another log, which is not split yet.
        DataError: no synthetic log has this name.
    """
    name = point.dataset
    if name in SHAPES or name.startswith("twin:"):
        split = synthetic_split.split_of(name.removeprefix("twin:"), point.split)
        return sizes_from(point, split.lengths, split.num_items, split.train_users)
    known = f"{', '.join(SHAPES)}, twin:NAME or twin:NAME@SCALE of one of them"
    other = "any other once `dvc exp run split -S dataset=...` has split it"
    if not (SPLIT / "summary.json").is_file():
        raise ConfigError(f"dataset: found {name!r}, allowed: {known}; {other}")
    downloaded = read_json(DATA / "download" / "summary.json")["dataset"]
    if downloaded != name:
        raise ConfigError(
            f"dataset: found {name!r}, allowed: {known}, {downloaded}, whose split is in {SPLIT}; {other}"
        )
    lengths = read_output(SequenceStore.open, SPLIT / "sequences" / "train.arrow").lengths.numpy()
    usable = lengths[lengths >= 2]
    return sizes_from(point, usable, pq.read_metadata(SPLIT / "items.parquet").num_rows, len(usable))


def sizes_from(point: Config, lengths: synthetic_split.Int64s, items: int, users: int) -> Sizes:
    """The sizes of a point's log and batches, from the lengths of its training histories.

    Args:
        point: batch size, length, model, windows.
        lengths: [n] int64 of all training histories, or of a fair sample of them, each at least 2.
        items: V.
        users: training histories.
    """
    shift = 0 if ENCODERS[point.model].masked else 1  # a next-item example reads all but its last item
    if point.train.window is None:
        read = np.minimum(lengths - shift, point.max_seq_len)
    else:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        read = sliding_windows(offsets, point.max_seq_len + shift, point.train.window).lengths - shift
    examples = max(1, round(users * len(read) / len(lengths)))
    return Sizes.of(config.model_settings(point), config.batch_settings(point), read, items=items, examples=examples)
