"""Train an encoder: one call, resumable at any time."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from rec_models.config import BatchSettings, LossSettings, ModelSettings, Precision, TrainingSettings
from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import TrainingError
from rec_models.losses.paper import trains_padding
from rec_models.training import memory
from rec_models.training.checkpoint import ModelCheckpoint, RunFolder, RunState
from rec_models.training.devices import announce, autocast_dtype, cpu_name, device_of
from rec_models.training.logging import ResultsFolder
from rec_models.training.loop import Conductor, TrainingModule, Validate
from rec_models.training.prefetch import Batches, Feed, MakeBatches, as_factory


@dataclass(frozen=True)
class FitResult:
    """What a training run came to."""

    train_loss: float
    """Mean loss a token in the best epoch."""
    best_epoch: int
    """From 1: the epoch whose weights are in ``model.ckpt``."""
    epochs: int
    """Epochs trained."""
    metrics: dict[str, float]
    """Validation metrics of the best epoch; empty without validation."""
    epoch_seconds: float
    """Mean seconds of an epoch's training loop, its loading included, validation and checkpoints left out."""
    whole_epoch_seconds: float
    """Seconds of the whole fit over its epochs: validation, checkpoints and start included, as the paper measured."""
    peak_memory_gib: float
    """Over the whole fit, as the paper measured."""
    loop_peak_memory_gib: float
    """Of the training loop alone, weights and optimiser included; on a CPU up to the first validation."""
    peak_memory_kind: str
    """What was measured: torch's allocator on a GPU, resident memory of the process on a CPU."""
    tokens_per_second: float
    """Input places (items of histories) read a second of training loop."""
    device: str
    """Name of the device."""
    precision: str
    """The one that was used."""
    history: list[dict[str, float]]
    """One row an epoch, as in ``history.csv``."""
    is_first_rank: bool
    """False on all processes but the first: they should write nothing."""


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
    callbacks: Sequence[lightning.Callback] = (),
    build: Callable[[ModelSettings, int], Encoder] | None = None,
) -> FitResult:
    """Train, validate after each epoch, keep the best.

    Writes into ``out``: ``model.ckpt`` (the best epoch), ``history.csv``, ``tensorboard/``. Keeps its state in
    ``checkpoint_dir``; if that holds a state of the same run, goes on from there. On a CPU the outcome is then the same
    as without the interruption, to the last bit.

    Args:
        model: the network.
        loss: the loss.
        training: the loop.
        num_items: V, the size of the catalogue.
        train_batches: batches, or with several devices a function from (rank, world size) to the batches of that rank.
            All ranks must have equally many.
        validate: metrics of an encoder in eval mode, ``ndcg@10`` among them; None: train for ``max_epochs``. Its
            `encode_last` computes in the precision of training.
        out: folder for the results.
        checkpoint_dir: folder for the state of this run and no other.
        item_counts: [V] int64, how often training saw each item; for popularity sampling.
        batching: what ``train_batches`` holds, to be kept in ``model.ckpt`` for training again; None: not said.
        callbacks: for whoever measures steps; they run after the loop's own.
        build: makes a new network from its settings and V, on whatever device; None: `build_encoder`.

    Raises:
        TrainingError: the loss or a weight became NaN, memory ran out, or validation gave no ``ndcg@10``.
        ValueError: settings that contradict the data.
    """
    started = time.perf_counter()
    loss.check_catalogue(num_items, None if item_counts is None else len(item_counts))
    training.check_loss(loss)
    device = device_of(training)
    precision: Precision = training.precision if device.type == "cuda" else "32-true"
    torch.manual_seed(training.seed)
    record = _records(training, loss, device)
    kind = memory.Run(model, loss, training, num_items)
    identity = {"model": asdict(model), "loss": asdict(loss), "training": asdict(training), "num_items": num_items}
    if batching is not None:
        identity["batching"] = asdict(batching)
    folder = RunFolder(Path(checkpoint_dir), identity)
    with _memory_errors(device, kind, lambda: None):
        encoder = (build or build_encoder)(model, num_items)
        resumed = folder.resume()
    encoder.autocast_dtype = autocast_dtype(precision, device)
    module = TrainingModule(encoder, loss, training, item_counts, record=record)
    state = resumed.state if resumed is not None else RunState()
    held: list[Batches] = []

    def batches() -> Batches:
        if not held:
            held.append(as_factory(train_batches)(trainer.global_rank, trainer.world_size))
        return held[0]

    results = ResultsFolder(Path(out))
    conductor = Conductor(
        state=state,
        training=training,
        folder=folder,
        snapshot=partial(ModelCheckpoint, model, loss, training, num_items, batching=batching),
        validate=validate,
        batches_per_epoch=lambda: len(batches()),
        resumed=resumed,
        on_epoch=lambda: results.write_history(state.history),
        started=started,
    )
    with _quiet_lightning():
        trainer = _trainer(
            training, device, precision, max_epochs=training.max_epochs - state.epoch, callbacks=[conductor, *callbacks]
        )
        if not state.finished:
            memory.reset_peak(device)
            position = lambda: (state.epoch, state.index)  # noqa: E731
            if trainer.is_global_zero:
                announce(model, loss, training, num_items, device, precision)
            fill = model.max_seq_len if record else None
            pad_to = model.max_seq_len if trains_padding(loss) else None
            pin = device.type == "cuda"
            feed = Feed(batches, position, training.accumulate, fill=fill, pad_to=pad_to, num_items=num_items, pin=pin)
            with _memory_errors(device, kind, lambda: conductor.shape), _same_sums_always(device):
                trainer.fit(module, feed)
    if trainer.is_global_zero:
        results.write_history(state.history)
        results.take_model(folder.best(state.best_epoch))
    return _result(state, device, precision, is_first_rank=trainer.is_global_zero)


def _records(training: TrainingSettings, loss: LossSettings, device: torch.device) -> bool:
    """Whether whole steps are recorded as CUDA graphs."""
    return device.type == "cuda" and training.records_steps(loss)


def _trainer(
    training: TrainingSettings,
    device: torch.device,
    precision: str,
    *,
    max_epochs: int,
    callbacks: list[lightning.Callback],
) -> lightning.Trainer:
    """Lightning's trainer with everything off that `Conductor` does itself."""
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=training.devices,
        # Gradients that are views into what is sent between processes: no second copy of the table's.
        strategy=DDPStrategy(gradient_as_bucket_view=True) if training.devices > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]  # one of TrainingSettings.precision
        max_epochs=max_epochs,
        accumulate_grad_batches=training.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's notes on hardware say less than our own lines, and its use of torch is not the user's concern."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _same_sums_always(device: torch.device) -> Iterator[None]:
    """On a CPU, sums of gathered rows in a fixed order: with several threads torch adds them as they come."""
    if device.type != "cpu":
        yield
        return
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False  # an aid for debugging that costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        options.fill_uninitialized_memory = before[1]


@contextmanager
def _memory_errors(
    device: torch.device, run: memory.Run, shape: Callable[[], tuple[int, int] | None]
) -> Iterator[None]:
    """Say what to lower when memory runs out; `shape` gives rows and columns of the batch in work."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        raise TrainingError(memory.out_of_memory_advice(error, device, run, shape())) from error


def _result(state: RunState, device: torch.device, precision: str, *, is_first_rank: bool) -> FitResult:
    best = state.history[state.best_epoch - 1]
    loop_seconds = sum(row["train_seconds"] for row in state.history)
    prefix = "validation_"
    return FitResult(
        train_loss=best["train_loss"],
        best_epoch=state.best_epoch,
        epochs=len(state.history),
        metrics={
            name.removeprefix(prefix): value
            for name, value in best.items()
            if name.startswith(prefix) and name != "validation_seconds"
        },
        epoch_seconds=loop_seconds / len(state.history),
        whole_epoch_seconds=state.whole_seconds / len(state.history),
        peak_memory_gib=max(state.peak_memory_gib, state.loop_peak_memory_gib, memory.peak_gib(device)),
        loop_peak_memory_gib=state.loop_peak_memory_gib,
        peak_memory_kind=memory.peak_kind(device),
        tokens_per_second=sum(row["tokens"] for row in state.history) / max(loop_seconds, 1e-9),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        precision=precision,
        history=state.history,
        is_first_rank=is_first_rank,
    )
