"""Runs of one, two and three processes on the same batches, in float64: run by test_ranks.py.

Arguments are names of runs. Prints a JSON object: by number of processes and by run, what four steps make of loss and
weights; by "resumed", what is left of a run that other numbers of processes went on with. Processes are forked before
torch starts a thread: importing torch and Lightning takes seconds.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_run import ITEMS, TinyBatches

from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.errors import TrainingError
from rec_models.losses import LOSSES
from rec_models.training import loop
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.cuda_graphs import GraphedSteps, size_of

RANKS = (1, 2, 3)
TRAINING = ("optimizer", "averaging", "table", "checkpoint_steps")
SHARED = {"none": {"sharing": "none"}, "tile": {"sharing": "tile", "tile_tokens": 8}, "batch": {"sharing": "batch"}}


def runs():
    """Every loss with every sampler and with every sharing that it takes, by name, and two of them with all pairs."""
    found = {}
    for number, (loss, spec) in enumerate(LOSSES.items()):
        if not spec.sampled:
            found[loss] = {"loss": loss}
            continue
        for row, sampling in enumerate(("uniform", "popularity", "in_batch")):
            for column, (sharing, options) in enumerate(SHARED.items()):
                if loss in ("ce_neg", "cce_neg") or row == (column + number) % 3:
                    found[f"{loss}-{sampling}-{sharing}"] = {"loss": loss, "sampling": sampling, **options}
    found["cce_neg-mixed-tile"] = {"loss": "cce_neg", "sampling": "mixed", **SHARED["tile"]}
    found["ce_neg-mixed_popularity-none"] = {"loss": "ce_neg", "sampling": "mixed_popularity", **SHARED["none"]}
    found["sce-ties"] = {"loss": "sce", "sce_bucket_size_y": ITEMS, "sce_buckets": 5}
    found["cce_neg-faithful"] = {"loss": "cce_neg", "paper_faithful": True, "sampling": "uniform"}
    found["two-micro-batches"] = {"loss": "cce_neg", "micro": 2, "sampling": "in_batch", **SHARED["tile"]}
    found["sce-two-micro-batches"] = {"loss": "sce", "micro": 2}
    for sampling in ("uniform", "mixed"):
        found[f"filled-{sampling}"] = {"loss": "cce_neg", "sampling": sampling, "filled": True, **SHARED["tile"]}
    found["filled-cce"] = {"loss": "cce", "filled": True}
    for optimizer in ("adam_bf16", "adam_rowwise", "adam_lazy"):
        found[optimizer] = {"loss": "cce_neg", "optimizer": optimizer, **SHARED["tile"]}
    found["averaging"] = {"loss": "cce", "averaging": 0.5}
    for name in [name for name, options in found.items() if LOSSES[options["loss"]].fused]:
        if name != "cce_neg-faithful":
            found[f"sharded-{name}"] = found[name] | {"table": "sharded"}
    found["a-rank-ends"] = {"loss": "cce", "ends": True}  # the last, because the group is lost with it
    return found


class LaunchedSteps(GraphedSteps):
    """Whole steps on the filled batches of a GPU, launched one by one: what a CUDA graph would hold."""

    def __init__(self, step_loss, optimizer, ranks):
        self._step_loss, self._optimizer, self._ranks = step_loss, optimizer, ranks
        self._device, self._step = torch.device("cpu"), torch.zeros((), dtype=torch.int64)

    def run(self, batch, step):
        if self._ranks is not None:  # all would record the same graph
            sizes = [None] * dist.get_world_size()
            dist.all_gather_object(sizes, size_of(batch))
            assert len(set(sizes)) == 1, sizes
        self._step.fill_(step)
        with mock.patch.object(torch, "autocast", return_value=nullcontext()):  # float64 is wanted
            return self._train(batch)


def train(ranks, options, folder):
    options = dict(options)
    with ExitStack() as patches:
        if "table" in options:  # of one process: the whole table
            options["table"] = "replicated" if ranks == 1 else options["table"]
            options["items"] = 130  # every process has a row
        if options.pop("filled", False):
            patches.enter_context(mock.patch.object(loop, "_uses_cuda_graphs", return_value=True))
            patches.enter_context(mock.patch.object(loop, "GraphedSteps", LaunchedSteps))
        if options.pop("ends", False):
            return ended(ranks, options, folder)
        return fit(ranks, options, folder)


def ended(ranks, options, folder):
    """What the first of several processes raises when the last one has ended without a word."""
    batch = TinyBatches.batch

    def deadly(self, epoch, index):
        if ranks > 1 and self.rank == ranks - 1 and index == 2:
            os._exit(1)
        return batch(self, epoch, index)

    with mock.patch.object(TinyBatches, "batch", deadly):
        try:
            return fit(ranks, options, folder)
        except TrainingError as error:
            return str(error)


STAGES = (  # processes, their table, and at which batch the last one is killed
    (1, "sharded", 1), (2, "sharded", 2), (3, "sharded", 3), (1, "auto", None),
)  # fmt: skip
RESUMED = {
    "items": 130,
    "loss": "cce_neg",
    "sampling": "popularity",
    "optimizer": "adam_lazy",
    "averaging": 0.5,
    **SHARED["tile"],
}


def stage(ranks, folder, table, kill_at, batch_size):
    """One process of a stage: the error or the outcome of the run."""
    batch = TinyBatches.batch

    def deadly(self, epoch, index):
        if self.rank == ranks - 1 and index == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, epoch, index)

    with mock.patch.object(TinyBatches, "batch", deadly):
        try:
            return fit(ranks, RESUMED | {"table": table, "batch_size": batch_size, "checkpoint_steps": 1}, folder)
        except TrainingError as error:
            return str(error)


def fit(ranks, options, folder):
    batching = BatchSettings(batch_size=options.pop("batch_size", 6 // ranks))
    micro, items = options.pop("micro", 1), options.pop("items", ITEMS)
    training = {name: options.pop(name) for name in TRAINING if name in options}
    defaults = {"num_negatives": 7, "sce_bucket_size_x": 12, "sce_bucket_size_y": 9, "sce_buckets": 4}
    result = loop.fit(
        model=ModelSettings(model="sasrec", hidden=16, max_seq_len=10, dropout=0.0),
        loss=LossSettings.pick(**(defaults | options)),
        training=TrainingSettings(
            max_epochs=1, learning_rate=1e-2, accelerator="cpu", accumulate=micro, devices=ranks, **training
        ),
        num_items=items,
        train_batches=lambda rank, world: TinyBatches(
            count=4, rows=6 * micro, rank=rank, world_size=world, micro=micro, items=items
        ),
        validate=None,
        out=folder / "out",
        checkpoint_dir=folder / "kept",
        batching=batching,
        item_counts=torch.arange(items),
        build=lambda settings, items: build_encoder(settings, items).double(),
    )
    if not result.is_first_rank:
        return None
    weights = ModelCheckpoint.read(folder / "out" / "model.safetensors").weights
    (row,) = result.history
    return {
        "loss": row["train_loss"],
        "step": row["step"],
        "tokens": row["tokens"],
        "weights": {name: tensor.double().flatten().tolist() for name, tensor in weights.items()},
    }


def work(rank, ranks, port, results, run):
    """One process as torchrun starts it: two are on one machine, and three on a machine each."""
    here, local, machine = (1, 0, rank) if ranks == 3 else (ranks, rank, 0)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(machine), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(here), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    found = run(ranks)
    if rank == 0:
        results.put(found)


def together(ranks, number, run):
    """What the first of some processes returns; None if it is killed."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    port = 20000 + os.getpid() % 20000 + number
    processes = [context.Process(target=work, args=(rank, ranks, port, queue, run)) for rank in range(ranks)]
    for process in processes:
        process.start()
    while queue.empty() and processes[0].is_alive():
        time.sleep(0.01)
    found = None if queue.empty() else queue.get()
    for process in processes:
        process.join()
    return found


def resumed(folder):
    """A run that is killed, and goes on with another number of processes; and one whose batches then are others."""
    found = {
        "whole": together(1, 10, partial(stage, folder=folder / "a", table="replicated", kill_at=None, batch_size=6))
    }
    for number, (ranks, table, kill_at) in enumerate(STAGES):
        run = partial(stage, folder=folder / "b", table=table, kill_at=kill_at, batch_size=6 // ranks)
        found[number] = together(ranks, 11 + number, run)
    together(2, 16, partial(stage, folder=folder / "c", table="sharded", kill_at=2, batch_size=6))
    found["other"] = together(1, 17, partial(stage, folder=folder / "c", table="auto", kill_at=None, batch_size=6))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, report = sys.argv[1:], {}
    with tempfile.TemporaryDirectory() as place:

        def all_runs(ranks):
            wanted = {name: options for name, options in runs().items() if not chosen or name in chosen}
            return {name: train(ranks, options, Path(place) / str(ranks) / name) for name, options in wanted.items()}

        if "resumed" in chosen:
            report["resumed"] = resumed(Path(place) / "resumed")
        for ranks in RANKS:
            report[ranks] = together(ranks, ranks, all_runs)
    sys.stdout.write(json.dumps(report))
