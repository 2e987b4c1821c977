"""Build an approximate index of a model's items, and measure what it misses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutrec.checksums import file_hash
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, write_json
from cutrec.recommender import Recommender
from cutrec.recommending.item_index import FACTS, FILE, ItemIndex, usearch
from cutrec.workflow.ranking import UserBatch, user_batches
from rec_data.progress import progress
from rec_eval import Catalogue, top_k

EXPANSIONS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""How many candidates a search keeps: the smallest that reaches the recall is stored."""
_CONNECTIVITY, _EXPANSION_ADD = 16, 128
_ROWS = 1 << 14
K = 10
"""Length of the lists whose recall is measured."""


def build(recommender: Recommender, out: Path, *, recall: float, histories: int) -> dict[str, Any]:
    """Write an index, and what it was measured to find of the exact lists of some users of the log.

    Args:
        recommender: on a CPU, with the histories of its log.
        out: the folder; it is new or holds an index.
        recall: the least share of the exact lists' items that the index must find.
        histories: users whose lists are compared, drawn at random.

    Returns:
        What is stored beside the index.

    Raises:
        StageError: the recall is not reached, or there is no log.
    """
    ranker, module, start = recommender.ranker, usearch(), time.perf_counter()
    catalogue = ranker.catalogue
    num_items, dim = catalogue.items.shape
    k = min(K, num_items)
    some = recommender.some_histories(histories)
    batches = list(
        user_batches(ranker.encoder, some, batch_users=256, filter_seen=True, title="histories", catalogue=catalogue)
    )
    graph = module.Index(
        ndim=dim, metric=module.MetricKind.IP, dtype="bf16", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD
    )
    vectors, threads = catalogue.items.numpy(), torch.get_num_threads()
    with progress("index", num_items, "item", leave=False) as bar:
        for first in range(0, num_items, _ROWS):
            last = min(first + _ROWS, num_items)
            graph.add(np.arange(first, last), vectors[first:last], threads=threads)
            bar.update(last - first)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {}
    for expansion in EXPANSIONS:
        graph.expansion_search = expansion
        found = {"expansion_search": expansion, **_measured(ItemIndex(graph, {}), catalogue, batches, k)}
        if found["recall"] >= recall:
            break
    else:
        reached = f"{found['recall']:.4f} with {EXPANSIONS[-1]} candidates"
        raise StageError(f"--recall: found {reached}, allowed here: at most that; or serve without an index")
    with atomic_folder(out) as folder:
        graph.save(str(folder / FILE))
        facts = {
            "model": ranker.hash,
            "sha256": file_hash(folder / FILE),
            "items": num_items,
            "k": k,
            **found,
            "histories": len(some),
            "build_seconds": round(seconds, 1),
        }
        write_json(folder / FACTS, facts)
    return facts


def _measured(index: ItemIndex, catalogue: Catalogue, batches: list[UserBatch], k: int) -> dict[str, float]:
    """The recall of an index over batches of users against the exact lists, and its time per list, many at a time."""
    hits, wanted, seconds = 0, 0, 0.0
    for batch in batches:
        seen: dict[str, Any] = {"seen_offsets": batch.seen_offsets, "seen_items": batch.seen_items}
        exact = top_k(batch.queries, catalogue, k, **seen).ids
        start = time.perf_counter()
        found = index.top_k(batch.queries, catalogue, k, **seen).ids
        seconds += time.perf_counter() - start
        hits += int(((exact[:, :, None] == found[:, None, :]) & (exact >= 0)[:, :, None]).sum())
        wanted += int((exact >= 0).sum())
    lists = batches[-1].end
    return {"recall": hits / wanted, "milliseconds_per_list": round(1000 * seconds / lists, 3)}
