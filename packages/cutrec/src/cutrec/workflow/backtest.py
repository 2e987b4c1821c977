"""Backtests: the same evaluation in several successive windows of a log, each of which ends where the next one begins.

One figure of one test period does not say how much figures change from period to period. A model per window, trained on
what lies before it, says what a team sees that trains again for every period. One model of the first window, evaluated
in the later ones with histories that grow, says how fast a model ages.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cutrec.checksums import checksum, verified, write_checksums
from cutrec.config import PRESET_KEYS, Config, as_written
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, unchanged
from cutrec.paths import COMPLETE, model_file
from cutrec.reporting.backtest import WindowResult, read_shared, read_window
from cutrec.workflow.evaluate import evaluate
from cutrec.workflow.split import split
from cutrec.workflow.train import train
from rec_data.raw.timestamps import to_datetime
from rec_data.splits.windows import Window, split_later, windows_of

_SPLIT_KEYS = ("split", "seed", "download.ties", "evaluate.filter_seen")
_TRAIN_KEYS = (*_SPLIT_KEYS, *PRESET_KEYS, "impl")
_EVALUATE_KEYS = (*_TRAIN_KEYS, "evaluate")
"""The keys of params.yaml, or sections of it, that decide what a step writes."""


def backtest(
    config: Config,
    log: Path,
    out: Path,
    *,
    windows: int,
    days: int | None = None,
    rolled: bool = False,
    checkpoints: Path,
) -> list[WindowResult]:
    """Split, train and evaluate for each window; steps that are complete are not repeated.

    Args:
        config: the point; its ``split.test_fraction`` is the share of the interactions in each window.
        log: the log of the stage download.
        out: for the folders ``<window>/split``, ``train`` and ``evaluate``, from 1 on, and ``<window>/rolled/split``
            and ``evaluate`` of the first window's model.
        windows: how many; the last one ends with the log.
        days: the length of a window, instead of the share.
        rolled: evaluate the first window's model in all windows, instead of training one for each.
        checkpoints: see `cutrec.workflow.train.train`.

    Returns:
        The results of all windows, first those of a model per window. Those of the other kind are among them if an
        earlier call with the same settings made them, and then both models on what both are tested on.

    Raises:
        ConfigError: settings contradict each other.
        DataError: the log is too short for the windows, or a window has nobody to train, validate or test on.
        StageError: the log is missing or damaged, has no accuracy or no clock, or training failed.
    """
    _refuse(config)
    with unchanged(log):
        identity = checksum(verified(log))
        share, until = config.split.test_fraction, config.split.test_until
        found = windows_of(log, windows, share=share, days=days, until=until)
        points = [_at(config, window) for window in found]
        first_model = _key(points[0], identity, _TRAIN_KEYS)
        retrained: list[WindowResult] = []
        once: list[WindowResult] = []
        for number, (point, window) in enumerate(zip(points, found, strict=True), start=1):
            folder, dates = out / str(number), _dates(window)
            print(f"window {number} of {windows}: {' to '.join(dates)}", file=sys.stderr)
            if number == 1 or not rolled:
                _train_and_evaluate(point, log, identity, folder, checkpoints)
            else:
                _evaluate_later(point, log, first_model, out / "1", folder / "rolled")
            own = folder, _key(point, identity, _EVALUATE_KEYS)
            later = own if number == 1 else (folder / "rolled", _key(point, first_model, _EVALUATE_KEYS))
            for results, kind, (place, key) in ((retrained, "per window", own), (once, "once", later)):
                if _is_complete(place / "evaluate", key):
                    results.append(read_window(place, number, dates, kind))
    complete = [results for results in (retrained, once) if len(results) == windows]
    if len(complete) == 2:
        after = enumerate(found[1:], start=2)
        complete.append([read_shared(out / str(number), number, _dates(window)) for number, window in after])
    return [result for results in complete for result in results]


def _refuse(config: Config) -> None:
    """Refuse points that have no windows, or no accuracy."""
    for key, found, allowed, text in (
        ("split.strategy", config.split.strategy, "temporal", "temporal"),
        ("split.test_from", config.split.test_from, None, "null"),
        ("paper_faithful", config.paper_faithful, False, "false"),
    ):
        if found != allowed:
            raise StageError(f"{key}: found {found}, allowed for a backtest: {text}")
    if config.dataset.startswith("twin:"):
        raise StageError(f"dataset: found {config.dataset!r}, allowed: a log; a synthetic one has no accuracy")


def _at(config: Config, window: Window) -> Config:
    """The point whose test is a window."""
    return dataclasses.replace(
        config, split=dataclasses.replace(config.split, test_from=window.begin, test_until=window.end)
    )


def _train_and_evaluate(point: Config, log: Path, identity: str, folder: Path, checkpoints: Path) -> None:
    """The three steps of a window with a model of its own."""
    parts, model = folder / "split", folder / "train"
    _step(parts, _key(point, identity, _SPLIT_KEYS), lambda: split(point, log, parts))
    _step(model, _key(point, identity, _TRAIN_KEYS), lambda: train(point, parts, model, checkpoints=checkpoints))
    tested = folder / "evaluate"
    key = _key(point, identity, _EVALUATE_KEYS)
    _step(tested, key, lambda: evaluate(point, parts, model_file(model), tested))


def _evaluate_later(point: Config, log: Path, model_key: str, first: Path, folder: Path) -> None:
    """The two steps of a window with the model of the first one."""
    parts, tested = folder / "split", folder / "evaluate"

    def write_split() -> None:
        with atomic_folder(parts) as fresh:
            split_later(
                log,
                first / "split",
                fresh,
                point.split,
                seed=point.seed,
                filter_seen=point.evaluate.filter_seen,
                tie_seed=point.download.tie_seed(point.seed),
            )
            write_checksums(fresh)

    _step(parts, _key(point, model_key, _SPLIT_KEYS), write_split)
    key = _key(point, model_key, _EVALUATE_KEYS)
    _step(tested, key, lambda: evaluate(point, parts, model_file(first / "train"), tested))


def _key(point: Config, made_from: str, keys: Sequence[str]) -> str:
    """A hash of what a step is made from, and of the settings that it reads."""
    values = {key: value for key, value in as_written(point).items() if key != "train.tracker"}
    read = {
        key: value for key, value in values.items() if any(key == name or key.startswith(f"{name}.") for name in keys)
    }
    return hashlib.sha256(json.dumps([made_from, read], sort_keys=True).encode()).hexdigest()


def _is_complete(folder: Path, key: str) -> bool:
    """Whether a step with these settings has written its folder."""
    return (folder / COMPLETE).is_file() and (folder / COMPLETE).read_text() == key


def _step(folder: Path, key: str, make: Callable[[], None]) -> None:
    """Write the folder of a step, unless it is complete."""
    if _is_complete(folder, key):
        return
    (folder / COMPLETE).unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make()
    (folder / COMPLETE).write_text(key)


def _dates(window: Window) -> tuple[str, str]:
    """The moments of a window, as ISO 8601 to the second."""
    first, end = (to_datetime(moment).replace(tzinfo=None).isoformat(" ", "seconds") for moment in window)
    return first, end
