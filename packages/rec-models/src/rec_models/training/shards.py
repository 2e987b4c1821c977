"""Whether the rows of the item table are spread over the processes of a run, and an encoder that has a part of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import torch
from torch import nn

from cce_kernels.shard import Rows, Shard
from rec_models.config import MOST_SHARDS, ModelSettings, can_be_sharded
from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import SettingsError
from rec_models.optim.build import table_bytes
from rec_models.training.batch import IGNORED
from rec_models.training.memory import Run
from rec_models.training.prefetch import Batches
from rec_models.training.ranks import Ranks

_MOST_OF_A_GPU = 0.8  # of its memory, for what grows with the catalogue


def shard_of(run: Run, batches: Batches, ranks: Ranks | None, device: torch.device) -> Shard | None:
    """The rows of this process, or None where every process has the whole table; the same decision on all ranks.

    `batches` are those of this rank.

    Raises:
        SettingsError: a process would have no row of a table that is to be sharded.
    """
    training, num_items = run.training, run.num_items
    if ranks is None or training.table == "replicated":
        return None
    shard = Shard(None, num_items) if ranks.world_size <= MOST_SHARDS else None
    has_rows = shard is not None and Rows(num_items, ranks.world_size, ranks.world_size - 1).number > 0
    if training.table == "sharded":
        if not has_rows:
            beside = {"devices": ranks.world_size, "num_items": num_items}
            raise SettingsError("table", "sharded", "replicated, because a device would have no item", **beside)
        return shard
    possible = can_be_sharded(run.loss) and training.precision != "16-mixed"
    if not has_rows or not possible or ranks.world_size == 1:
        return None
    (most,) = max(ranks.agree([_first_targets(batches)]))
    return shard if _too_large(run, device) or num_items > (ranks.world_size + 2) * most else None


def _first_targets(batches: Batches) -> int:
    """The targets of the first batch; 0 if there is none."""
    source = (batch for batch in batches.epoch(0))
    with closing(source):
        first = next(source, None)
    return 0 if first is None else int((first.targets != IGNORED).sum())


def _too_large(run: Run, device: torch.device) -> bool:
    """Whether a GPU cannot hold the whole table with its gradient, its moments and its average."""
    if device.type != "cuda":
        return False
    needed = table_bytes(run.training.optimizer, run.num_items, run.model.hidden)
    needed += 4 * run.num_items * run.model.hidden if run.training.averaging else 0
    return needed > _MOST_OF_A_GPU * torch.cuda.get_device_properties(device).total_memory


def build_part(
    model: ModelSettings, num_items: int, shard: Shard | None, build: Callable[[ModelSettings, int], Encoder] | None
) -> Encoder:
    """A new encoder with the rows of a shard, all without one; `build` makes the whole one, None: `build_encoder`."""
    if shard is None:
        return (build or build_encoder)(model, num_items)
    if build is None:
        encoder = build_encoder(model, num_items, shard.rows)
    else:
        encoder = build(model, num_items)
        encoder.item_table = nn.Parameter(shard.rows.of(encoder.item_table.detach()))
    encoder.shard = shard
    return encoder
