"""A model folder of any size, without a training: SASRec with items in clusters, and a log of users to measure with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cutrec.checksums import write_checksums
from cutrec.paths import LOG, MODEL
from rec_data.ids import hash_ids
from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.training.checkpoint import ModelCheckpoint

LENGTH = 50
"""Items of a history."""
_CLUSTER = 200


def write_model(folder: Path, num_items: int, *, dim: int = 64, users: int = 3000, seed: int = 0) -> None:
    """Write a model, its items and a log, as training would, if the folder does not have them.

    Item vectors lie around centers, 200 of them on average, with norms that differ as those of popular and of rare
    items do. Histories stay in a few clusters.
    """
    if (folder / MODEL.name).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    settings = ModelSettings(hidden=dim, max_seq_len=LENGTH)
    encoder = build_encoder(settings, num_items)
    numbers = np.random.default_rng(seed)
    clusters = max(2, num_items // _CLUSTER)
    of_item = torch.from_numpy(numbers.integers(0, clusters, num_items))
    centers = torch.randn(clusters, dim)
    with torch.no_grad():
        for start in range(0, num_items, 1 << 20):
            part = slice(start, start + (1 << 20))
            vectors = centers[of_item[part]] + 0.7 * torch.randn(len(of_item[part]), dim)
            encoder.item_table[part] = 0.2 * vectors * torch.exp(0.25 * torch.randn(len(vectors), 1))
    items = pa.array(range(num_items), pa.int64())
    by_cluster = np.argsort(of_item.numpy(), kind="stable")
    starts = np.searchsorted(of_item.numpy()[by_cluster], np.arange(clusters + 1))
    chosen = numbers.integers(0, clusters, (users, 4))[:, :, None].repeat(LENGTH // 4 + 1, axis=2).reshape(users, -1)
    chosen = chosen[:, :LENGTH]
    width = np.maximum(starts[chosen + 1] - starts[chosen], 1)
    histories = by_cluster[
        np.minimum(starts[chosen] + numbers.integers(0, 1 << 30, chosen.shape) % width, num_items - 1)
    ]
    log = {
        "user_id": np.repeat(np.arange(users), LENGTH),
        "item_id": histories.flatten(),
        "timestamp": np.tile(np.arange(LENGTH), users),
    }
    pq.write_table(pa.table(log), folder / LOG.name)
    counts = pa.array(np.bincount(log["item_id"], minlength=num_items))
    pq.write_table(pa.table({"original_id": items, "count": counts}), folder / "items.parquet")
    ModelCheckpoint(
        settings,
        LossSettings(loss="cce"),
        TrainingSettings(),
        num_items,
        1,
        {},
        encoder.state_dict(),
        catalogue=hash_ids(items),
    ).save(folder / MODEL.name)
    write_checksums(folder)


def read_histories(folder: Path) -> list[list[int]]:
    """The histories of the users of the log."""
    items = pq.read_table(folder / LOG.name, columns=["item_id"])["item_id"].to_numpy().reshape(-1, LENGTH)
    found: list[list[int]] = items.tolist()
    return found
