r"""How long training waits for batches of histories in parts, in and outside of the system's page cache.

Run::

    python packages/cutrec/benchmarks/train_parts.py --folder bench \
        --csv packages/cutrec/benchmarks/results/train_parts.csv

The histories have the lengths of those of ``twin:zvuk`` and random items. ``warm``: they are in memory. ``start``: none
of them is when the files are opened, which reads them whole. ``epoch``: none is when the epoch begins, as where they do
not fit into memory; the batches then fault their pages in. Each row is a training in a process of its own, on a CPU.
``waited_share`` is that of ``metrics.json``. ``making_share`` is the share of the loop that batches take to be made,
and ``making_cpu_share`` what of that is computing; the rest is waiting for the disk, or for a processor. Page faults
that read and bytes read are those of the loop.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from scoring import add_row

CACHES = ("warm", "start", "epoch", "batch")
ITEMS = 20_000
_DONTNEED = 4  # of madvise, on Linux


def write_parts(folder: Path, parts: int, scale: float) -> int:
    """Write the stores, if they are not there; their bytes."""
    import numpy as np

    from rec_data.sequences.parts import Part
    from rec_data.sequences.store import write_store
    from rec_data.sources import synthetic

    if not folder.is_dir():
        folder.mkdir(parents=True)
        shape = synthetic.SHAPES["zvuk"].scaled(scale / parts)
        for number in range(1, parts + 1):
            rng = np.random.default_rng(number)
            lengths = synthetic.user_lengths(shape, rng)
            part = Part(number, parts)
            write_store(
                folder / f"{part.name}.arrow",
                items=rng.integers(0, ITEMS, int(lengths.sum()), dtype=np.int32),
                offsets=np.concatenate(([0], np.cumsum(lengths))),
                user_ids=np.arange(len(lengths), dtype=np.int32) * parts + number - 1,
                part=part,
            )
    return sum(path.stat().st_size for path in folder.iterdir())


def evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache, and first from the memory of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".arrow") and str(folder) in line:
            begin, end = (int(place, 16) for place in line.split()[0].split("-"))
            if libc.madvise(begin, end - begin, _DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def counters() -> dict[str, float]:
    """What this process has read from disk so far, and its page faults that read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    read = next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    return {"read_mib": read / 2**20, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt}


class Watched:
    """Some batches of each epoch, with the time that they take to be made and what is read meanwhile."""

    def __init__(self, source: Any, count: int, folder: Path, cache: str) -> None:
        self.source, self.count, self.folder, self.cache = source, count, folder, cache
        self.seconds, self.cpu_seconds, self.found = 0.0, 0.0, counters()

    def __len__(self) -> int:
        """Batches per epoch."""
        return min(self.count, len(self.source))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch."""
        if self.cache in ("epoch", "batch"):
            evict(self.folder)
        before = counters()
        batches = islice(self.source.epoch(epoch, start), len(self))
        while True:
            began, cpu = time.perf_counter(), time.thread_time()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            self.cpu_seconds += time.thread_time() - cpu
            if batch is None:
                break
            yield batch
        self.found = {name: value - before[name] for name, value in counters().items()}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train for an epoch in this process."""
    import torch

    from rec_data.sequences.batches import TrainingBatches
    from rec_data.sequences.subsets import open_subset
    from rec_models.config import LossSettings, ModelSettings, TrainingSettings
    from rec_models.training.loop import fit

    torch.set_num_threads(options.threads)
    folder = options.folder / f"{options.parts}" / "train"
    evict(folder)
    if options.cache == "warm":
        for path in folder.iterdir():
            path.read_bytes()
    began = time.perf_counter()
    source = TrainingBatches(
        open_subset(folder.parent, "train"),
        num_items=ITEMS,
        batch_size=options.batch_size,
        max_seq_len=options.max_seq_len,
    )
    open_seconds = time.perf_counter() - began
    batches = Watched(source, options.batches, folder, options.cache)
    with tempfile.TemporaryDirectory() as work:
        result = fit(
            model=ModelSettings(hidden=options.hidden, max_seq_len=options.max_seq_len),
            loss=LossSettings.pick("cce_neg", num_negatives=options.negatives),
            training=TrainingSettings(max_epochs=1, accelerator="cpu"),
            num_items=ITEMS,
            train_batches=batches,
            validate=None,
            out=work,
            checkpoint_dir=Path(work) / "kept",
            on_batch=(lambda _: evict(folder)) if options.cache == "batch" else None,
        )
    return {
        "open_seconds": round(open_seconds, 2),
        "batches": len(batches),
        "loop_seconds": round(result.epoch_seconds, 1),
        "waited_share": round(result.waited_share, 4),
        "making_share": round(batches.seconds / result.epoch_seconds, 4),
        "making_cpu_share": round(batches.cpu_seconds / result.epoch_seconds, 4),
        "read_faults": int(batches.found["faults"]),
        "read_mib": round(batches.found["read_mib"], 1),
    }


def main() -> None:
    """Train in each state of the cache, print the rows and append them to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the histories go")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--scale", type=float, default=0.4, help="of twin:zvuk, whose histories take 1 GB")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-seq-len", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--negatives", type=int, default=512)
    parser.add_argument("--batches", type=int, default=300, help="to train on, at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--repeats", type=int, default=1, help="rows per state of the cache")
    parser.add_argument("--revision", default="", help="of the code, for the table")
    parser.add_argument("--csv", type=Path, help="append the rows to this table")
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=CACHES, help="states of the page cache")
    parser.add_argument("--cache", choices=CACHES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cache:
        print(json.dumps(train(options)))
        return
    size = write_parts(options.folder / f"{options.parts}" / "train", options.parts, options.scale)
    for cache in [*options.caches] * options.repeats:
        load = os.getloadavg()[0]
        command = [sys.executable, *sys.argv, "--cache", cache]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            sys.exit(f"{cache} failed:\n{done.stderr[-3000:]}")
        row = {
            "machine": f"{os.cpu_count()} cores",
            "load": round(load, 1),
            "revision": options.revision,
            "parts": options.parts,
            "store_mib": round(size / 2**20),
            **{name: vars(options)[name] for name in ("batch_size", "max_seq_len", "hidden", "negatives", "threads")},
            "cache": cache,
            **json.loads(done.stdout.splitlines()[-1]),
        }
        print(json.dumps(row), flush=True)
        if options.csv:
            add_row(options.csv, row)


if __name__ == "__main__":
    main()
