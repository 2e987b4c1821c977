"""Rankings of a catalogue spread over 1, 2, 3 and 5 processes: run by test_parts.py. Prints what differs from one.

Vectors of whole numbers: scores are exact, and many are equal. Processes are forked before torch starts a thread.
"""

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from rec_eval import Part, target_ranks

USERS, ITEMS, DIM = 37, 203, 8


def inputs():
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randint(-2, 3, (n, DIM), generator=generator).float() for n in (USERS, ITEMS))
    targets = torch.randint(0, ITEMS, (USERS,), generator=generator)
    seen = [
        torch.randperm(ITEMS, generator=generator)[: int(n)]
        for n in torch.randint(0, 60, (USERS,), generator=generator)
    ]
    seen[0] = targets[:1]
    seen[1] = torch.randperm(ITEMS, generator=generator)[: ITEMS - 5]
    offsets = torch.tensor([0] + [len(each) for each in seen]).cumsum(0)
    return queries, items, targets, {"seen_offsets": offsets, "seen_items": torch.cat(seen)}


def work(rank, ranks, store, results):
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks)
    queries, items, targets, seen = inputs()
    ids = torch.arange(ITEMS)
    size = -(-64 // ranks)
    part = Part(ids[ids % 64 // size == rank], ITEMS, -(-ITEMS // 64) * size)
    own = items[part.ids]
    same = {}
    for tiles in ({}, {"item_tile": 17, "user_tile": 10}):
        found, expected = (
            target_ranks(queries, x, targets, part=p, **seen, **tiles) for x, p in ((own, part), (items, None))
        )
        same[f"ranks {tiles}"] = torch.equal(found, expected)
    everyone = [None] * ranks
    dist.all_gather_object(everyone, same)
    if rank == 0:
        results.put(everyone)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    report, folder = {}, tempfile.TemporaryDirectory()
    for number in (1, 2, 3, 5):
        queue = context.SimpleQueue()
        store = Path(folder.name) / str(number)
        processes = [context.Process(target=work, args=(rank, number, store, queue)) for rank in range(number)]
        for process in processes:
            process.start()
        report[number] = queue.get()
        for process in processes:
            process.join()
    sys.stdout.write(json.dumps(report))
