"""Backtests: the same evaluation in several successive windows of a log, each of which ends where the next one begins.

One figure of one test period does not say how much figures change from period to period. A model per window, trained on
what lies before it, says what a team sees that trains again for every period. One model of the first window, evaluated
in the later ones with histories that grow, says how fast a model ages. That model updated by the events of each window
before the next one (`cutrec.workflow.update`) says how much of what training again gains an update keeps.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from cutrec.checksums import checksum, verified, write_checksums
from cutrec.config import PRESET_KEYS
from cutrec.config_point import Config, as_written
from cutrec.decide_update import for_update
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, unchanged
from cutrec.paths import COMPLETE, model_file
from cutrec.reporting.backtest_results import OLDER, WindowResult, read_shared, read_window
from cutrec.workflow.evaluate import evaluate
from cutrec.workflow.split import split
from cutrec.workflow.train import train
from cutrec.workflow.update import write_update_split
from rec_data.raw.timestamps import to_datetime
from rec_data.sequences.parts import count_rows
from rec_data.splits.bounded import parts_of, require_one_part
from rec_data.splits.windows import Window, split_later, windows_of

_SPLIT_KEYS = ("split", "seed", "download.ties", "evaluate.filter_seen")
_TRAIN_KEYS = (*_SPLIT_KEYS, *PRESET_KEYS, "impl")
_EVALUATE_KEYS = (*_TRAIN_KEYS, "evaluate")
"""The keys of params.yaml, or sections of it, that decide what a step writes."""
Later = Literal["retrained", "rolled", "updated"]
"""The models of the windows after the first: trained again, that of the first window, or it with an update for each."""


def backtest(
    config: Config,
    log: Path,
    out: Path,
    *,
    windows: int,
    days: int | None = None,
    later: Later = "retrained",
    checkpoints: Path,
) -> list[WindowResult]:
    """Split, train and evaluate for each window; steps that are complete are not repeated.

    Args:
        config: the point; its ``split.test_fraction`` is the share of the interactions in each window.
        log: the log of the stage download.
        out: for the folders ``<window>/split``, ``train`` and ``evaluate``, from 1 on, ``<window>/rolled/split`` and
            ``evaluate`` of the first window's model, and ``<window>/updated/learn``, ``train``, ``split`` and
            ``evaluate`` of its updates.
        windows: how many; the last one ends with the log.
        days: the length of a window, instead of the share.
        later: the models of the windows after the first.
        checkpoints: see `cutrec.workflow.train.train`.

    Returns:
        The results of all windows, first those of a model per window. Those of the other kinds are among them if
        earlier calls with the same settings made them, and then both models on what both are tested on.

    Raises:
        ConfigError: settings contradict each other.
        DataError: the log is too short for the windows, or too large for `later`, or a window has nobody to train,
            validate or test on.
        StageError: the log is missing or damaged, has no accuracy or no clock, or training failed.
    """
    _refuse(config)
    with unchanged(log):
        identity = checksum(verified(log))
        if later != "retrained":
            require_one_part(parts_of(count_rows(log), config.split.memory_bytes), config.split, f"--{later}")
        share, until = config.split.test_fraction, config.split.test_until
        found = windows_of(log, windows, share=share, days=days, until=until)
        points = [_at(config, window) for window in found]
        first_model = made_from = _key(points[0], identity, _TRAIN_KEYS)
        results: dict[str, list[WindowResult]] = {kind: [] for kind in ("per window", *OLDER)}
        for number, (point, window) in enumerate(zip(points, found, strict=True), start=1):
            folder, dates = out / str(number), _dates(window)
            print(f"window {number} of {windows}: {' to '.join(dates)}", file=sys.stderr)
            if number == 1 or later == "retrained":
                _train_and_evaluate(point, log, identity, folder, checkpoints)
            elif later == "rolled":
                _evaluate_later(point, log, first_model, out / "1", folder / "rolled")
            else:
                before = out / "1" if number == 2 else out / str(number - 1) / "updated"
                _update_and_evaluate(point, log, made_from, before, found[number - 2], folder / "updated", checkpoints)
            places = {"per window": (folder, identity)} | dict.fromkeys(OLDER, (folder, identity))
            if number > 1:
                made_from = _key(point, made_from, _TRAIN_KEYS)
                places |= {"once": (folder / "rolled", first_model), "updated": (folder / "updated", made_from)}
            for kind, (place, source) in places.items():
                if _is_complete(place / "evaluate", _key(point, source, _EVALUATE_KEYS)):
                    results[kind].append(read_window(place, number, dates, kind))
    complete = {kind: rows for kind, rows in results.items() if len(rows) == windows}
    for kind in OLDER:
        if {"per window", kind} <= set(complete):
            after = enumerate(found[1:], start=2)
            complete[f"shared {kind}"] = [read_shared(out / str(n), n, _dates(window), kind) for n, window in after]
    return [result for rows in complete.values() for result in rows]


def _refuse(config: Config) -> None:
    """Refuse points that have no windows, or no accuracy."""
    for key, found, allowed, text in (
        ("train.init_from", config.train.init_from, None, "null"),
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


def _update_and_evaluate(
    point: Config, log: Path, before_key: str, before: Path, period: Window, folder: Path, checkpoints: Path
) -> None:
    """The four steps of a window with the model of the window before, updated by the events of that period."""
    learn, model = folder / "learn", folder / "train"
    shorter = dataclasses.replace(
        for_update(point), split=dataclasses.replace(point.split, test_from=None, test_until=period.end)
    )

    def write_learn() -> None:
        with atomic_folder(learn) as fresh:
            write_update_split(shorter, log, before / "train" / "items.parquet", fresh, new_from=period.begin)

    key = _key(point, before_key, _TRAIN_KEYS)
    _step(learn, key, write_learn)
    started = dataclasses.replace(shorter, train=dataclasses.replace(shorter.train, init_from=str(before / "train")))
    _step(model, key, lambda: train(started, learn, model, checkpoints=checkpoints))
    _evaluate_later(point, log, key, folder, folder, split="learn")


def _evaluate_later(point: Config, log: Path, model_key: str, first: Path, folder: Path, split: str = "split") -> None:
    """The two steps of a window with the model in ``train/`` of a folder, whose catalogue is that of its `split`."""
    parts, tested = folder / "split", folder / "evaluate"

    def write_split() -> None:
        with atomic_folder(parts) as fresh:
            split_later(
                log,
                first / split,
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
