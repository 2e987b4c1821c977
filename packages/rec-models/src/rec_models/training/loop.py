"""The training loop: one call that trains, validates, keeps the best model, and resumes where it was stopped.

`fit` prepares a run, `_train` is the loop; `rec_models.training.bookkeeping` does what happens between steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rec_models.config import BatchSettings, LossSettings, ModelSettings, Precision, TrainingSettings
from rec_models.encoders import Encoder
from rec_models.losses.paper import trains_padding
from rec_models.optim.build import build_optimizer
from rec_models.randomness import mix_seed
from rec_models.training import devices, memory
from rec_models.training.bookkeeping import Bookkeeping, Validate
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.cuda_graphs import GraphedSteps
from rec_models.training.logging import ResultsFolder
from rec_models.training.prefetch import Batches, MakeBatches, Prefetcher, batches_of
from rec_models.training.ranks import Ranks, end_with_parent, lost_rank_errors
from rec_models.training.result import BatchDone, FitResult
from rec_models.training.run_state import RunFolder, RunState, run_of
from rec_models.training.shards import build_part, shard_of
from rec_models.training.step import StepLoss
from rec_models.training.stopping import EXIT_STATUS, stop_on_sigterm
from rec_models.training.trackers import Tracker

OnEpoch = Callable[[Mapping[str, float], int], object]


def fit(
    *,
    model: ModelSettings,
    loss: LossSettings,
    training: TrainingSettings,
    num_items: int,
    train_batches: Batches | MakeBatches,
    validate: Validate | None,
    out: str | Path,
    checkpoint_dir: str | Path,
    item_counts: Tensor | None = None,
    batching: BatchSettings | None = None,
    catalogue: str | None = None,
    log: str | None = None,
    on_batch: Callable[[BatchDone], object] | None = None,
    on_epoch: OnEpoch | None = None,
    build: Callable[[ModelSettings, int], Encoder] | None = None,
    tracker: Tracker | None = None,
) -> FitResult:
    """Train, validate after each epoch, keep the best model.

    With ``training.averaging`` the model that is validated and kept has the average of the weights (`AveragedEncoder`).

    Writes ``model.safetensors`` (the best epoch), ``history.csv`` and ``tensorboard/`` into ``out``. Keeps its state in
    ``checkpoint_dir``; if that folder holds a state of the same run, training resumes from it, also with another number
    of devices: in the same place if all together have the same batch, otherwise from the start of the epoch. On a CPU,
    and with as many processes, the outcome is then bit for bit that of an uninterrupted run.

    Args:
        model: the network.
        loss: the loss.
        training: the loop.
        num_items: V, the size of the catalogue.
        train_batches: the batches, or with several devices a function from (rank, world size) to the batches of that
            rank. All ranks must have equally many.
        validate: returns metrics of an encoder in eval mode, ``ndcg@10`` among them; its `encode_last` computes in the
            precision of training. The first rank calls it, or with a sharded table (``encoder.shard``, whose rows the
            item table has) all ranks at the same time. None: train for ``max_epochs``.
        out: folder for the results.
        checkpoint_dir: folder for the state of this run and no other, the same on all ranks.
        item_counts: [V] int64, how often each item occurs in the training data; for popularity sampling.
        batching: what ``train_batches`` holds. It is kept with the model for training again; None: not recorded.
        catalogue: a hash of the items' ids. It is kept with the model, so that nobody pairs the model with other ids,
            and a state of a run on other ids is not resumed; None: not recorded.
        log: a hash of the log that the data are of. It is kept with the model; None: not recorded.
        on_batch: called after each micro-batch, for benchmarks.
        on_epoch: called after each epoch with its validation metrics and its number, from 1, on every rank; if it
            returns True, training is finished.
        build: makes a new network from its settings and V, on any device, with all rows of the item table; None:
            `build_encoder`.
        tracker: an experiment tracker, which gets the settings and the rows of ``history.csv``.

    Raises:
        TrainingError: the loss or a weight became NaN, memory ran out, or validation returned no ``ndcg@10``.
        ValueError: settings that contradict each other or the data.
        SystemExit: the process received SIGTERM.
    """
    started = time.perf_counter()
    loss.check_catalogue(num_items, None if item_counts is None else len(item_counts))
    training.check_loss(loss)
    device = devices.device_of(training)
    precision = devices.precision_on(device, training.precision)
    settings = memory.Run(model, loss, training, num_items)
    identity = {"model": asdict(model), "loss": asdict(loss), "training": asdict(training), "num_items": num_items}
    identity |= {} if batching is None else {"batching": asdict(batching)}
    identity |= {} if catalogue is None else {"catalogue": catalogue}
    folder, results = RunFolder(Path(checkpoint_dir), *run_of(identity)), ResultsFolder(Path(out), tracker)
    shape: list[int] = []  # rows and columns of the batch in work, for a message about memory
    with devices.quiet_lightning():
        fabric = devices.build_fabric(training, device, precision)

    with ExitStack() as contexts:
        contexts.enter_context(closing(results))
        contexts.enter_context(memory.out_of_memory_errors(device, settings, shape))
        contexts.enter_context(devices.deterministic_on_cpu(device))
        contexts.enter_context(lost_rank_errors())
        resumed = folder.resume()
        state = RunState() if resumed is None else resumed.state
        if tracker is not None:
            tracker.follow(state, identity)
        if not state.finished:
            with devices.quiet_lightning():
                fabric.launch()  # starts the other processes and waits until all of them have come this far
            if fabric.global_rank > 0:
                end_with_parent()
            stop = contexts.enter_context(stop_on_sigterm(getattr(fabric.strategy.launcher, "procs", [])))
            devices.free_earlier_memory(fabric)
            memory.reset_peak(device)
            ranks = Ranks() if fabric.world_size > 1 or training.table == "sharded" else None
            batches = batches_of(train_batches, fabric.global_rank, fabric.world_size)
            shard = shard_of(settings, batches, ranks, device)
            if fabric.is_global_zero:
                devices.announce(settings, device, precision, sharded=shard is not None)
                if tracker is not None:
                    tracker.start()
            torch.manual_seed(training.seed)
            encoder = build_part(model, num_items, shard, build).to(fabric.device)
            encoder.autocast_dtype = devices.autocast_dtype(precision, device)
            counts = None if item_counts is None else item_counts.to(fabric.device)
            step_loss = StepLoss(encoder, loss, training, counts)
            optimizer = build_optimizer(encoder, training)
            graphed = (
                GraphedSteps(step_loss, optimizer, ranks) if _uses_cuda_graphs(training, loss, precision) else None
            )
            prefetcher = Prefetcher(
                batches,
                training.accumulate,
                fill=None if graphed is None else model.max_seq_len,
                pad_to=model.max_seq_len if trains_padding(loss) else None,
                num_items=num_items,
                pin=device.type == "cuda",
                ranks=ranks,
                rows=None if shard is None else shard.rows,
            )
            snapshot = partial(ModelCheckpoint, *settings, batching=batching, catalogue=catalogue, log=log)
            run = Bookkeeping(fabric, training, state, folder, encoder, optimizer, snapshot, prefetcher, started)
            if resumed is not None:
                run.restore(resumed)
                resumed = None  # frees its tensors
            if ranks is not None:
                ranks.share_weights(encoder)
            _train(run, step_loss, ranks, graphed, prefetcher, validate, results, stop, shape, on_batch, on_epoch)

    if fabric.is_global_zero:
        with closing(results):
            results.write_history(state.history)
            results.write_step_losses(state.step_losses, state.step)
        results.take_model(folder.best(state.best_epoch))
    return FitResult.of_state(state, device, precision, is_first_rank=fabric.is_global_zero)


def _train(
    run: Bookkeeping,
    step_loss: StepLoss,
    ranks: Ranks | None,
    graphed: GraphedSteps | None,
    prefetcher: Prefetcher,
    validate: Validate | None,
    results: ResultsFolder,
    stop: list[int],
    shape: list[int],
    on_batch: Callable[[BatchDone], object] | None,
    on_epoch: OnEpoch | None,
) -> None:
    """Train until the run is finished: every epoch trains, validates, keeps the best model and saves the state."""
    fabric, training, state = run.fabric, run.training, run.state
    if graphed is None:  # a graph holds the whole step; otherwise Fabric applies precision and scaling
        module: Any = fabric.setup_module(step_loss, move_to_device=False)
        optimizer: Any = fabric.setup_optimizers(run.optimizer)
    while not state.finished:
        run.encoder.train()
        run.start_epoch()
        with closing(prefetcher.epoch(state.epoch, state.index)) as batches:
            for batch in batches:
                if stop and batch.position == 0:
                    run.save_before_exit()
                    raise SystemExit(EXIT_STATUS)
                shape[:] = batch.layout.rows, batch.layout.width
                # Dropout is a function of (seed, step, micro-batch, rank), so resuming needs no generator state.
                place = (training.seed, state.step, batch.position, fabric.global_rank)
                devices.seed_dropout(fabric.device, mix_seed("dropout", *place))
                if graphed is not None:
                    mean = graphed.run(batch, state.step)
                else:
                    on_device = batch if fabric.device.type == "cpu" else batch.to(fabric.device)
                    mean = module(on_device, state.step, batch.row_offset)
                    # The gradient of the mean over all tokens of the step, on all ranks.
                    share = batch.share_of(step_loss.weight(batch))
                    fabric.backward(mean if share == 1 else mean * share)
                    if batch.is_last:
                        if ranks is not None:
                            ranks.sum_gradients(run.encoder)
                        optimizer.step()
                        optimizer.zero_grad()
                mean = mean.detach()
                run.count(batch, mean, step_loss.counted(batch))
                if batch.is_last:
                    run.read_and_save()
                if on_batch is not None:
                    on_batch(BatchDone(batch, mean, run.encoder, prefetcher, graphed is not None))

        run.close_loop()
        metrics, seconds = run.measure(validate)
        run.end_epoch(metrics, seconds)
        if on_epoch is not None and on_epoch(metrics, state.epoch) is True:
            state.finished = True
        if fabric.is_global_zero:
            results.write_history(state.history)
            results.write_step_losses(state.step_losses, state.step)
        run.keep_best(metrics)


def _uses_cuda_graphs(training: TrainingSettings, loss: LossSettings, precision: Precision) -> bool:
    """Whether whole steps run as CUDA graphs: they are made for bf16, which a CPU and an older GPU do not train in."""
    return precision == "bf16-mixed" and training.records_steps(loss)
