"""A tiny log whose next item is a function of the last one, and a run on it; also a script for tests of processes.

Run: python tiny_run.py RUNS, where RUNS is a JSON list of arguments of `run`, one object per run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.inference import encode
from rec_models.training.loop import fit
from rec_models.training.result import FitResult

ITEMS = 30
STRIDE = 7  # the item after i is i + 7, modulo 30


class TinyBatch(NamedTuple):
    items: Tensor  # [T]
    offsets: Tensor  # [B + 1]
    targets: Tensor  # [T]
    masked: Tensor | None = None  # [T]

    @property
    def lengths(self):
        return self.offsets.diff()


class TinyBatches:
    """A pure function of (epoch, index); ranks take consecutive parts of what one process would take whole."""

    def __init__(self, *, model="sasrec", count=6, rows=8, width=10, rank=0, world_size=1, micro=1, items=None):
        self.model, self.count, self.rows, self.width = model, count * micro, rows // micro, width
        self.rank, self.world_size, self.micro = rank, world_size, micro
        self.items = ITEMS if items is None else items

    def __len__(self):
        return self.count

    def epoch(self, epoch, start=0):
        for index in range(start, self.count):
            yield self.batch(epoch, index)

    def batch(self, epoch, index):
        lengths, *padded = self.padded(epoch, index // self.micro)
        rows = self.rows // self.world_size
        first = (index % self.micro) * self.rows + self.rank * rows
        lengths = lengths[first : first + rows]
        real = torch.arange(self.width) < lengths[:, None]
        items, targets, masked = (None if part is None else part[first : first + rows][real] for part in padded)
        return TinyBatch(items, torch.tensor([0, *lengths]).cumsum(0), targets, masked)

    def padded(self, epoch, index):
        """Lengths [B], and items, targets and masked [B, L], of the whole step."""
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        total = self.rows * self.micro
        lengths = torch.randint(2, self.width + 1, (total,), generator=generator)
        first = torch.randint(self.items, (total, 1), generator=generator)
        items = (first + STRIDE * torch.arange(self.width + 1)) % self.items
        if self.model == "sasrec":
            return lengths, items[:, :-1], items[:, 1:], None
        masked = torch.rand(total, self.width, generator=generator) < 0.3
        masked[torch.arange(total), lengths - 1] = True
        return lengths, items[:, :-1], torch.where(masked, items[:, :-1], -100), masked


def validate(encoder):
    """NDCG@10 of the true next item, for a history from each item on."""
    items, shard = encoder.num_items, encoder.shard
    histories = [[(first + STRIDE * k) % items for k in range(5)] for first in range(items)]
    table = encoder.item_table if shard is None else whole_table(encoder.item_table, shard)
    scores = encode(encoder, histories) @ table.T  # [items, items]
    target = torch.tensor([(first + STRIDE * 5) % items for first in range(items)], device=scores.device)
    rank = (scores > scores.gather(1, target[:, None])).sum(1)
    gains = torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0.0)
    return {"ndcg@10": float(gains.mean()), "recall@10": float((rank < 10).float().mean())}


def without_keys_bias(weights):
    """Weights by name; softmax cancels the keys' bias, its gradient is rounding alone, and Adam makes steps of that."""
    found = dict(weights)
    for name in [name for name in found if name.endswith("query_key_value.bias")]:
        queries, _, values = found[name].chunk(3)
        found[name] = torch.cat((queries, values))
    return found


def whole_table(own, shard):
    """The item table of all processes."""
    table = own.new_zeros(shard.num_items, own.shape[1])
    table[shard.rows.ids(own.device)] = own.detach()
    torch.distributed.all_reduce(table)
    return table


LOSS_OPTIONS = {"num_negatives": 16, "sharing": "tile", "sce_bucket_size_y": 16}
"""A whole batch has about 48 tokens, fewer than a tile: who looks for differences within one passes `tile_tokens`."""


def run(
    out,
    checkpoints,
    *,
    model="sasrec",
    loss="cce",
    kill_at=None,
    micro=1,
    counts=(6,),
    batching=None,
    catalogue=None,
    loss_options=None,
    on_epoch=None,
    tracker=None,
    items=ITEMS,
    **training,
) -> FitResult:
    """Train; `kill_at`: send SIGKILL to this process when batch (epoch, index) is asked for; `counts`: of batches, by
    rank, the last one for all further ranks."""

    def batches(rank, world_size):
        count = counts[min(rank, len(counts) - 1)]
        made = TinyBatches(model=model, count=count, rank=rank, world_size=world_size, micro=micro, items=items)
        if kill_at is not None:
            batch = made.batch

            def deadly(epoch, index):
                if [epoch, index] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return batch(epoch, index)

            made.batch = deadly
        return made

    settings = {"max_epochs": 3, "learning_rate": 3e-3, "accelerator": "cpu", "accumulate": micro} | training
    return fit(
        model=ModelSettings(model=model, hidden=16, max_seq_len=10, dropout=settings.pop("dropout", 0.1)),
        loss=LossSettings.pick(loss, **(LOSS_OPTIONS | (loss_options or {}))),
        training=TrainingSettings(**settings),
        num_items=items,
        train_batches=batches,
        validate=validate,
        out=Path(out),
        checkpoint_dir=Path(checkpoints),
        batching=batching,
        catalogue=catalogue,
        on_epoch=on_epoch,
        tracker=tracker,
    )


if __name__ == "__main__":
    results = [run(**options) for options in json.loads(sys.argv[1])]
    if results[-1].is_first_rank:
        sys.stdout.write(json.dumps([{"history": each.history, "metrics": each.metrics} for each in results]))
