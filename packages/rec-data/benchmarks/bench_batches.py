"""Batches and tokens per second of TrainingBatches, beside a torch DataLoader that makes the same batches row by row.

Run::

    python packages/rec-data/benchmarks/bench_batches.py --twin beauty --batch-size 1024 --max-seq-len 32
    python packages/rec-data/benchmarks/bench_batches.py --twin zvuk --scale 0.1 --max-seq-len 128 --device cuda
    python packages/rec-data/benchmarks/bench_batches.py --csv packages/rec-data/benchmarks/results/batches.csv

The store is a twin's (``--scale`` shrinks it): speed depends on lengths alone. A figure is the median of ``--repeats``
runs. ``--csv`` adds the rows to a file; the git revision is read from the environment variable REVISION, or asked from
git.
"""

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from rec_data.sequences.batches import TrainingBatches
from rec_data.sequences.store import SequenceStore
from rec_data.sources import synthetic

LENGTH_ONLY_ITEMS = 1000
CPU_FACTS = Path("/proc/cpuinfo")
FIELDS = (
    "machine", "torch", "revision", "twin", "scale", "batch_size", "max_seq_len", "contestant", "repeats",
    "batches_per_second", "tokens_per_second",
)  # fmt: skip


def make_store(shape: synthetic.LogShape) -> SequenceStore:
    """A store with a twin's lengths and random items."""
    rng = np.random.default_rng(0)
    lengths = synthetic.user_lengths(shape, rng)
    items = rng.integers(0, LENGTH_ONLY_ITEMS, int(lengths.sum()), dtype=np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    users = np.arange(len(lengths), dtype=np.int32)
    return SequenceStore(torch.from_numpy(items), torch.from_numpy(offsets), torch.from_numpy(users))


class RowDataset(Dataset[tuple[Tensor, Tensor]]):
    """One user per index, sliced and cast row by row: how it is usually written."""

    def __init__(self, store: SequenceStore, max_seq_len: int) -> None:
        self.store, self.max_seq_len = store, max_seq_len

    def __len__(self) -> int:
        """Users."""
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one user."""
        end = int(self.store.offsets[index + 1])
        start = max(int(self.store.offsets[index]), end - self.max_seq_len - 1)
        history = self.store.items[start:end].long()
        return history[:-1], history[1:]


def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pads the rows of a batch."""
    inputs, targets = zip(*rows, strict=True)
    lengths = torch.tensor([len(row) for row in inputs])
    return pad_sequence(inputs, True), lengths, pad_sequence(targets, True, -100)


def loader_batches(store: SequenceStore, arguments: argparse.Namespace, workers: int) -> Iterator[Tensor]:
    """The lengths of the DataLoader's batches, each batch moved to the device."""
    pinned = arguments.device == "cuda"
    loader = DataLoader(
        RowDataset(store, arguments.max_seq_len),
        arguments.batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
    )
    for inputs, lengths, targets in loader:
        for tensor in (inputs, targets):
            tensor.to(arguments.device, non_blocking=pinned)
        yield lengths


def measure(make: Callable[[], Iterator[Tensor]], arguments: argparse.Namespace) -> tuple[float, float]:
    """Batches and tokens per second, the first batches not counted."""
    batches = make()
    for _ in itertools.islice(batches, 3):
        pass
    synchronize = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    synchronize()
    started, count, lengths = time.perf_counter(), 0, []
    for batch_lengths in itertools.islice(batches, arguments.batches):
        lengths.append(batch_lengths)
        count += 1
    synchronize()
    seconds = time.perf_counter() - started
    return count / seconds, float(torch.cat(lengths).sum()) / seconds


def median_of(make: Callable[[], Iterator[Tensor]], arguments: argparse.Namespace) -> tuple[float, float]:
    """The medians of several measurements."""
    found = [measure(make, arguments) for _ in range(arguments.repeats)]
    return statistics.median(rate for rate, _ in found), statistics.median(tokens for _, tokens in found)


def machine(device: str) -> str:
    """What measured: the GPU, or the processor with the threads that torch may use."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in CPU_FACTS.read_text().splitlines() if "model name" in line]
    threads = torch.get_num_threads()
    return f"{names[0] if names else 'cpu'}, {threads} thread{'s' if threads != 1 else ''}"


def revision() -> str:
    """The commit that was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return os.environ.get("REVISION") or asked.stdout.strip() or "unknown"


def add_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Adds rows to a CSV, which gets its header when it is new."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", default="beauty")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--max-seq-len", type=int, default=32)
    parser.add_argument("--batches", type=int, default=100, help="batches to measure, at most")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many runs is written")
    parser.add_argument("--csv", type=Path, help="also add the rows here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    store = make_store(synthetic.SHAPES[arguments.twin].scaled(arguments.scale))

    def gathered(**options: object) -> Callable[[], Iterator[Tensor]]:
        batches = TrainingBatches(
            store,
            num_items=LENGTH_ONLY_ITEMS,
            batch_size=arguments.batch_size,
            max_seq_len=arguments.max_seq_len,
            device=arguments.device,
            **options,  # type: ignore[arg-type]
        )
        return lambda: (batch.offsets.diff() for batch in batches.epoch(0))

    contestants = {
        "next_item, packed": gathered(),
        "masked_item, packed": gathered(task="masked_item"),
    }
    for workers in arguments.workers:
        contestants[f"DataLoader, {workers} workers"] = lambda workers=workers: loader_batches(
            store, arguments, workers
        )
    measured_on = {"machine": machine(arguments.device), "torch": torch.__version__, "revision": revision()}
    print(f"{arguments.twin}@{arguments.scale:g}, {arguments.batch_size} x {arguments.max_seq_len}, {measured_on}")
    print(f"{'':24} {'batches/s':>10} {'M tokens/s':>10} {'ms/batch':>9}")
    rows: list[dict[str, object]] = []
    for name, make in contestants.items():
        per_second, tokens = median_of(make, arguments)
        print(f"{name:24} {per_second:10.1f} {tokens / 1e6:10.2f} {1000 / per_second:9.3f}", flush=True)
        rows.append(
            {
                **measured_on,
                "twin": arguments.twin,
                "scale": arguments.scale,
                "batch_size": arguments.batch_size,
                "max_seq_len": arguments.max_seq_len,
                "contestant": name,
                "repeats": arguments.repeats,
                "batches_per_second": round(per_second, 2),
                "tokens_per_second": round(tokens),
            }
        )
    if arguments.csv:
        add_rows(arguments.csv, rows)


if __name__ == "__main__":
    main()
