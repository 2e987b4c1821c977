"""Search the settings of training for one split, by several processes that may be killed and started again."""

import dataclasses
import gc
import hashlib
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from optuna.exceptions import TrialPruned

from cutrec.config import batch_settings, loss_settings, model_settings, training_settings
from cutrec.config_point import Config
from cutrec.console import run_and_exit
from cutrec.errors import StageError
from cutrec.nested import as_yaml
from cutrec.outputs import unchanged
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.run_hash import run_hash
from cutrec.workflow.tune_bounds import Bounds, device_gib
from cutrec.workflow.tune_result import K, Tuning, keep_best_ranks, ranks_file, read_result
from cutrec.workflow.tune_space import Space, space_of
from cutrec.workflow.tune_study import Claim, Study
from rec_eval import rank_metrics
from rec_models.config import TrainingSettings
from rec_models.encoders import Encoder
from rec_models.errors import TrainingError
from rec_models.training.devices import device_of
from rec_models.training.loop import fit

Device = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class _Search:
    """What every process of a search must know."""

    space: Space
    split: Path
    folder: Path
    trials: int
    until: float
    """When to stop, on the clock of `time.monotonic`, which all processes of a machine share."""
    device: Device
    memory_gib: float | None
    """Of the device; None: all that it has."""
    sharers: int = 1
    """Processes that share the device."""
    parent: int | None = None
    """The process that started this one, without which it ends."""

    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.until or self.parent not in (None, os.getppid())

    def training(self, point: Config) -> TrainingSettings:
        """The loop of a point on the chosen device."""
        return dataclasses.replace(training_settings(point), accelerator=self.device)


class _TimeIsUp(Exception):  # noqa: N818
    """Ends a training in the middle of an epoch."""


def tune(
    config: Config,
    split: Path,
    searches: Path,
    *,
    trials: int = 30,
    minutes: float = 30.0,
    jobs: int = 1,
    device: Device = "auto",
    memory_gib: float | None = None,
    begin: Callable[[Path], None] = lambda _: None,
) -> Tuning:
    """Search, or go on with the search of the same split and settings.

    The first trial has the decided defaults. Several calls, in processes of their own, work on the same search if they
    have the same `config`, `split` and `searches`; trials are counted over all of them.

    Args:
        config: the point as params.yaml has it. Keys that it states stay as they are (`cutrec.workflow.tune_space`).
        split: the folder that `cutrec.workflow.split.split` wrote.
        searches: the folder for the state of searches. Each has a folder of its own there, named by the hash of its
            split, its settings and its space.
        trials: most trials of the search in total.
        minutes: what this call may take; a trial that is then in training stays unfinished, and the next call, which
            has its own minutes, resumes it.
        jobs: processes. With several GPUs they take turns.
        device: where to train.
        memory_gib: of a device, for all jobs on it; None: all that it has. Settings whose predicted memory is larger
            are not tried.
        begin: called with the folder of the search before the first trial; if it raises, nothing is searched.

    Raises:
        ConfigError: settings contradict each other.
        StageError: a file of the split is missing or damaged, no setting is left to search, or no trial validated.
    """
    until = time.monotonic() + 60 * minutes
    with unchanged(split):
        data = inputs.read_split(split)
        space, folder = _search_of(config, split, searches, data)
        begin(folder)
        search = _Search(space, split, folder, trials, until, device, memory_gib)
        if jobs == 1:
            _work(search, data)
        else:
            _work_in_processes(search, jobs)
    found = read_result(search.folder, space, wanted=trials if search.is_over() else 0)
    if not found.tried:
        why = next(
            iter(found.not_tried.values()),
            f"--minutes: {minutes:g} was too short for the first epoch; the search is kept",
        )
        raise StageError(f"no trial was validated: {why}")
    return found


def _search_of(config: Config, split: Path, searches: Path, data: inputs.SplitData) -> tuple[Space, Path]:
    """The space around a point for a split, and the folder of its search; the arguments are those of `tune`.

    Raises:
        ConfigError: settings contradict each other.
        StageError: no setting is left to search.
    """
    if config.dataset.startswith("twin:"):
        raise StageError(f"dataset: found {config.dataset!r}, allowed: a log; a synthetic one has no accuracy")
    if config.train.sequences is not None:
        raise StageError(f"train.sequences: found {config.train.sequences}, allowed for a search: null")
    if config.train.init_from is not None:
        raise StageError(f"train.init_from: found {config.train.init_from}, allowed for a search: null")
    if config.train.devices != 1:
        raise StageError(f"train.devices: found {config.train.devices}, allowed: 1; --jobs uses several GPUs")
    space = space_of(config, data.facts)
    if not space.axes:
        raise StageError("params.yaml: found a value for every key that is searched, allowed: auto for some")
    name = hashlib.sha256(f"{run_hash(space.point, split, code={})} {space.axes}".encode()).hexdigest()[:16]
    return space, searches / name


def _work_in_processes(search: _Search, jobs: int) -> None:
    """Work in several processes, each of which sees one GPU if there are any, and has its share of the processors."""
    before = dict(os.environ)
    visible = before.get("CUDA_VISIBLE_DEVICES")
    gpus = list(map(str, range(torch.cuda.device_count()))) if visible is None else visible.split(",")
    sharers = math.ceil(jobs / len(gpus)) if device_of(search.training(search.space.point)).type == "cuda" else jobs
    search = dataclasses.replace(search, sharers=sharers, parent=os.getpid())
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=run_and_exit, args=(partial(_work, search),), daemon=True) for _ in range(jobs)]
    try:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        for job, worker in enumerate(workers):  # new processes inherit the environment, before they import torch
            if gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        os.environ.clear()
        os.environ.update(before)
    if all(worker.exitcode for worker in workers):
        raise StageError("--jobs: every process of the search failed, for the reasons above; what was found is kept")


def _work(search: _Search, data: inputs.SplitData | None = None) -> None:
    """Train trials until all are done or the time is up; a process of its own opens the split itself."""
    data, study = data or inputs.read_split(search.split), Study(search.folder, search.space)
    device = device_of(search.training(search.space.point))
    refused = Bounds(search.space, device, (search.memory_gib or device_gib(device)) / search.sharers)
    while not search.is_over() and (claim := study.claim(search.trials, refused)) is not None:
        try:
            print(_train(search, data, study, claim), file=sys.stderr, flush=True)
        finally:
            claim.lock.release()
        gc.collect()  # memory of a training that an exception ended


def _train(search: _Search, data: inputs.SplitData, study: Study, claim: Claim) -> str:
    """Train a trial, from its checkpoint if there is one, and say in one line how it went."""
    point, place = search.space.at(claim.settings), study.place(claim.number)
    seconds, lap = claim.seconds, time.perf_counter()
    ranks_of, users = inputs.validation_ranks(point, data.validation), inputs.several_targets(data.validation)

    def validate(encoder: Encoder) -> dict[str, float]:
        ranks = ranks_of(encoder).cpu().numpy()
        kept = ranks if users is None else np.stack([ranks, users.numpy()], axis=1)
        keep_best_ranks(ranks_file(search.folder, claim.number), kept)
        return rank_metrics(torch.from_numpy(ranks), [K], user_ids=users)

    def on_epoch(metrics: Mapping[str, float], epoch: int) -> None:
        nonlocal seconds, lap
        lap, before = time.perf_counter(), lap
        seconds += lap - before
        claim.trial.set_user_attr("seconds", round(seconds, 3))
        if epoch not in claim.reported:
            claim.trial.report(metrics[f"ndcg@{K}"], epoch)
        if claim.trial.should_prune():
            raise TrialPruned

    def stop_in_time(_: object) -> None:
        if search.is_over():
            raise _TimeIsUp

    title = f"trial {claim.number} ({_in_words(claim)})"
    try:
        with (search.folder / f"trial-{claim.number}.log").open("a") as log, redirect_stderr(log):
            result = fit(
                model=model_settings(point),
                loss=loss_settings(point),
                training=search.training(point),
                num_items=len(data.counts),
                train_batches=inputs.make_batches(point, data.train, len(data.counts)),
                validate=validate,
                out=place / "out",
                checkpoint_dir=place / "checkpoints",
                item_counts=data.counts,
                batching=batch_settings(point),
                on_batch=stop_in_time,
                on_epoch=on_epoch,
            )
        study.complete(claim.trial, result.metrics[f"ndcg@{K}"])
        line = f"validation ndcg@{K} {result.metrics[f'ndcg@{K}']:.4f}, {result.epochs} epochs, {seconds:.0f} s"
    except TrialPruned:
        study.prune(claim.trial)
        line = f"ended early, because others were better at its epoch, {seconds:.0f} s"
    except TrainingError as error:
        study.fail(claim.trial, str(error))
        line = f"failed: {error}"
    except (KeyboardInterrupt, SystemExit):
        study.pause(claim.trial)
        raise
    except _TimeIsUp:
        study.pause(claim.trial)
        return f"{title}: stopped, because the time is up; the next start resumes it"
    shutil.rmtree(place, ignore_errors=True)
    return f"{title}: {line}"


def _in_words(claim: Claim) -> str:
    if claim.number == 1:
        return "the defaults"
    return " ".join(f"{key}={as_yaml(value)}" for key, value in claim.settings.items())
