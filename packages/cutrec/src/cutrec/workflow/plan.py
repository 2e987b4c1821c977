"""Memory and time of a training run, predicted from its configuration and the sizes of its log."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cutrec import config
from cutrec.checksums import verified
from cutrec.config_point import Config
from cutrec.decide import Facts, decide
from cutrec.errors import ConfigError
from cutrec.outputs import read_json
from cutrec.paths import DATA, SPLIT
from cutrec.stores import read_stores
from cutrec.workflow import synthetic_split
from rec_data.sources.synthetic import SHAPES
from rec_models.encoders.registry import ENCODERS
from rec_models.planning import Calibration, Memory, Seconds, Setup, Sizes, load, memory_of, seconds_of


@dataclass(frozen=True)
class Plan:
    """What is predicted for a point."""

    point: Config
    """Decided (`cutrec.decide`)."""
    sizes: Sizes
    memory: Memory
    seconds: Seconds

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the training loop per epoch."""
        together = self.point.train.accumulate * self.point.train.devices
        return self.seconds.step * math.ceil(self.sizes.steps / together)


def plan(point: Config, calibration: Calibration | None = None) -> Plan:
    """Decide what a point leaves open, and predict its memory and time.

    The constants are the shipped ones or those of a calibration.

    Raises:
        ConfigError: settings contradict each other, or the sizes of its log are not known yet.
        SettingsError: settings contradict the catalogue.
    """
    constants = calibration or load()
    facts = facts_of(point)
    point, _ = decide(point, facts)
    setup, sizes = setup_of(point), sizes_from(point, facts)
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
    """The sizes of a decided point's log and batches; see `facts_of`."""
    return sizes_from(point, facts_of(point))


def facts_of(point: Config) -> Facts:
    """The sizes of a point's log.

    A published log has the sizes of its synthetic twin. The demo and a log of your own are read from ``data/split``,
    the output of the stage ``split``, or from another ``split_folder``.

    Raises:
        ConfigError: another log, which is not split yet.
        DataError: no synthetic log has this name.
    """
    name, folder = point.dataset, Path(point.split_folder)
    if folder != SPLIT:
        return _facts_of_split(folder)
    if name in SHAPES or name.startswith("twin:"):
        split = synthetic_split.split_of(name.removeprefix("twin:"), point.split)
        return Facts(split.num_items, split.lengths, split.train_users)
    known = f"{', '.join(SHAPES)}, twin:NAME or twin:NAME@SCALE of one of them"
    other = "any other once `dvc exp run split -S dataset=...` has split it"
    if not (SPLIT / "summary.json").is_file():
        raise ConfigError(f"dataset: found {name!r}, allowed: {known}; {other}")
    downloaded = read_json(DATA / "download" / "summary.json")["dataset"]
    if downloaded != name:
        raise ConfigError(
            f"dataset: found {name!r}, allowed: {known}, {downloaded}, whose split is in {SPLIT}; {other}"
        )
    return _facts_of_split(SPLIT)


def _facts_of_split(folder: Path) -> Facts:
    lengths = np.concatenate([store.lengths.numpy() for store in read_stores(folder, "train")])
    return Facts.of(pq.read_metadata(verified(folder / "items.parquet")).num_rows, lengths)


def sizes_from(point: Config, facts: Facts) -> Sizes:
    """The sizes of a decided point's batches, from those of its log."""
    shift = 0 if ENCODERS[point.model].masked else 1  # a next-item example reads all but its last item
    read = facts.examples(point).lengths - shift
    examples = max(1, round(facts.users * len(read) / len(facts.lengths)))
    return Sizes.of(
        config.model_settings(point), config.batch_settings(point), read, items=facts.items, examples=examples
    )
