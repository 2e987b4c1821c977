"""Users per second and peak memory of lists for all users of a synthetic log: in one file, and part by part.

    python packages/cutrec/benchmarks/scoring.py --users 1000000 --items 1000000 --events 20000000 --csv FILE.csv
    python packages/cutrec/benchmarks/scoring.py --users 10000000 --items 100000 --events 500000000 --k 20 --parts 2 \
        --batch-users 1024 --variants processes --folder FOLDER --resume --csv FILE.csv

The network is SASRec with random weights, which cost what trained ones do. Every variant runs in a process of its own,
so that its peak of resident memory is its own; ``base_gib`` is the peak after loading torch and the model, before the
log. ``processes`` ranks for all parts at the same time, each in a process with one thread of torch; memory is then the
sum of the processes. With ``--folder`` the log stays there, and with ``--resume`` also the lists: after a kill, the
same command ranks only the missing chunks, and its row says how many they were (``ranked_chunks``). The git revision is
read from the environment variable REVISION, or asked from git. Needs no polars.
"""

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

BUCKET_EVENTS = 20_000_000
"""About so many events are in memory at a time while the log is put into order of time."""


def generate(options: argparse.Namespace) -> dict[str, Any]:
    """Write the log in order of time, as logs are, and not of users."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rec_data.sources.synthetic import START, LogShape, chunks

    shape = LogShape(options.users, options.items, options.events, options.events / options.users * 0.6, 365)
    buckets = max(1, options.events // BUCKET_EVENTS)
    paths = [options.folder / f"{bucket}.unsorted.parquet" for bucket in range(buckets)]
    schema = pa.schema({"user_id": pa.int32(), "item_id": pa.int32(), "timestamp": pa.int64()})
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd")) for path in paths]
        for columns in chunks(shape, seed=1):
            bucket_of = (columns[2] - START) * buckets // (shape.days * 86_400 + 1)
            order = np.argsort(bucket_of, kind="stable")
            ends = np.searchsorted(bucket_of[order], np.arange(1, buckets + 1))
            for writer, rows in zip(writers, np.split(order, ends[:-1]), strict=True):
                writer.write_table(pa.table([column[rows] for column in columns], schema=schema))
    with pq.ParquetWriter(options.folder / "log.parquet.part", schema, compression="zstd") as whole:
        for path in paths:
            whole.write_table(pq.read_table(path).sort_by("timestamp"), row_group_size=1 << 19)
            path.unlink()
    (options.folder / "log.parquet.part").rename(options.folder / "log.parquet")
    return {}


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Rank for all users, or for those of some parts."""
    import numpy as np
    import pyarrow as pa
    import torch

    from cutrec.workflow.history_sources import LogSource
    from cutrec.workflow.recommend import choose_device, recommend
    from cutrec.workflow.scoring import score_part
    from rec_data.sequences.histories import read_histories
    from rec_data.sequences.parts import Part
    from rec_models.config import ModelSettings
    from rec_models.encoders import build_encoder
    from rec_models.training.devices import autocast_dtype

    device = choose_device("auto")
    torch.manual_seed(0)
    network = ModelSettings(model="sasrec", hidden=options.hidden, max_seq_len=options.length)
    encoder = build_encoder(network, options.items).to(device).eval().requires_grad_(False)
    encoder.autocast_dtype = autocast_dtype("bf16-mixed", device)
    items, log, out = pa.array(np.arange(options.items)), options.folder / "log.parquet", options.folder / "lists"
    how = {"k": options.k, "batch_users": options.batch_users, "keep_seen": False}
    warm = torch.randn(8, options.hidden, device=device)
    (warm @ encoder.item_table[:8].T).sum().item()
    base, started, cpu = peak_gib(), time.perf_counter(), time.process_time()
    if options.variant == "whole":
        found = read_histories(log, items, tie_seed=42)
        rows = recommend(encoder, found, items, out / "all.parquet", as_csv=False, **how)
        users, chunks, ranked = len(found.store), 1, 1
    else:
        numbers = [options.part] if options.part else range(1, 1 + (options.only or options.parts))
        parts = [Part(number, options.parts) for number in numbers]
        source, chosen = LogSource(log, items, tie_seed=42), {"chunk_events": options.chunk_events, **how}
        done = [score_part(encoder, items, source, out, part, {}, **chosen) for part in parts]
        users, rows, chunks, ranked = (sum(counts) for counts in zip(*(each[:4] for each in done), strict=True))
    seconds = time.perf_counter() - started
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    return {
        "gpu": gpu, "torch": torch.__version__, "pyarrow": pa.__version__, "scored_users": users, "rows": rows,
        "chunks": chunks, "seconds": round(seconds, 2), "users_per_s": round(users / seconds),
        "base_gib": round(base, 3), "peak_gib": round(peak_gib(), 3),
        "gpu_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3) if gpu else "",
        "ranked_chunks": ranked, "threads": torch.get_num_threads(), "cpu_s": round(time.process_time() - cpu, 2),
    }  # fmt: skip


def joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What processes measured that worked at the same time, as one row."""
    summed = ("scored_users", "rows", "chunks", "base_gib", "peak_gib", "ranked_chunks", "threads", "cpu_s")
    row = rows[0] | {name: round(sum(each[name] for each in rows), 3) for name in summed}
    seconds = max(each["seconds"] for each in rows)
    resumed = row["ranked_chunks"] < row["chunks"]
    return row | {"seconds": seconds, "users_per_s": "" if resumed else round(row["scored_users"] / seconds)}


def peak_gib() -> float:
    """The peak of resident memory of this process; Linux counts KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def revision() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return os.environ.get("REVISION") or asked.stdout.strip() or "unknown"


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV, which gets its header when it is new."""
    is_new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Make the log, run the variants one after another, print and keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 1_000_000), ("items", 1_000_000), ("events", 20_000_000), ("hidden", 64),
                        ("length", 50), ("batch-users", 4096), ("chunk-events", 5_000_000), ("parts", 1),
                        ("only", 0), ("k", 10)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--variants", nargs="+", default=["whole", "parts"], choices=("whole", "parts", "processes"))
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    parser.add_argument("--folder", type=Path, help="where the log is, or will be; default: a temporary folder")
    parser.add_argument("--resume", action="store_true", help="keep the lists that are in the folder")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(generate(options) if options.variant == "generate" else score(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        variants = options.variants if (folder / "log.parquet").is_file() else ["generate", *options.variants]
        for variant in variants:
            if not options.resume:
                shutil.rmtree(folder / "lists", ignore_errors=True)
            (folder / "lists").mkdir(exist_ok=True)
            command = [sys.executable, *sys.argv, "--folder", str(folder), "--variant", variant]
            commands, environment = [command], dict(os.environ)
            if variant == "processes":
                environment |= {"OMP_NUM_THREADS": "1"}
                commands = [[*command, "--part", str(number)] for number in range(1, 1 + options.parts)]
            started = [
                subprocess.Popen(each, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
                for each in commands
            ]
            found = []
            for process in started:
                out, _ = process.communicate()
                if process.returncode:
                    sys.exit(f"{variant} failed")
                found.append(json.loads(out.splitlines()[-1]))
            if variant == "generate":
                continue
            measured = joined(found)
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
            machine = f"{os.cpu_count()} cores, {memory:.0f} GiB"
            shape = {name: vars(options)[name] for name in ("users", "items", "events", "hidden", "length", "parts")}
            row = {"machine": machine, "python": platform.python_version(), "revision": revision(), "variant": variant}
            row |= {**shape, "k": options.k, "batch_users": options.batch_users, "chunk_events": options.chunk_events}
            late = {name: measured.pop(name) for name in ("ranked_chunks", "threads", "cpu_s")}
            row |= measured | {"load": round(os.getloadavg()[0], 1)} | late
            print(json.dumps(row), flush=True)
            if options.csv:
                add_row(options.csv, row)


if __name__ == "__main__":
    main()
