"""Time and peak memory of the split on Spark in local mode, beside the split in memory, on a synthetic log.

Run::

    python packages/rec-data/benchmarks/bench_spark.py --dataset twin:megamarket@0.0871 --folder bench --csv spark.csv

Each split runs in a process of its own. The peak is that of all its processes together, Spark's JVM and its Python
workers included, by their resident memory every 0.2 seconds. Pages that processes share count in each of them.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil


def make_log(dataset: str, folder: Path) -> int:
    """Write the log if it is not there; its rows."""
    import pyarrow.parquet as pq

    from rec_data.sources import synthetic
    from rec_data.sources.fetch import fetch_log

    path = folder / "log.parquet"
    if not path.exists():
        _, shape = synthetic.parse(dataset.removeprefix("twin:"))
        synthetic.write_synthetic_log(shape, folder / "raw.parquet", seed=1)
        fetch_log("raw.parquet", path, root=folder)
        (folder / "raw.parquet").unlink()
    return int(pq.read_metadata(path).num_rows)


def split(how: str, folder: Path, parts: int, heap: str) -> None:
    """Split the log in this process."""
    out = folder / how
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if how == "memory":
        from rec_data.splits.split import split_log

        split_log(folder / "log.parquet", out)
        return
    from pyspark.sql import SparkSession

    from rec_data.splits.spark import split_on_spark

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", heap)
    session = builder.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "8").getOrCreate()
    split_on_spark(session.read.parquet(str(folder / "log.parquet")), out, parts=parts)


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; its seconds and the peak of its processes."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:  # noqa: S603
        process = psutil.Process(running.pid)
        cpu: dict[int, float] = {}
        while running.poll() is None:
            now = 0
            for one in (process, *process.children(recursive=True)):
                try:
                    now += one.memory_info().rss
                    times = one.cpu_times()
                except psutil.Error:  # it has just ended
                    continue
                cpu[one.pid] = times.user + times.system
            peak = max(peak, now)
            time.sleep(0.2)
        if running.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{running.stderr.read().decode() if running.stderr else ''}")
    seconds, used = time.perf_counter() - started, sum(cpu.values())
    return {"seconds": round(seconds, 1), "cpu_seconds": round(used, 1), "peak_gib": round(peak / 2**30, 2)}


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV, which gets its header when it is new."""
    is_new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Split both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="twin:megamarket@0.0871")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--heap", default="2g", help="of Spark's JVM")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--how", choices=("memory", "spark"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.how:
        split(options.how, options.folder, options.parts, options.heap)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for how in ("memory", "spark"):
        count = make_log(options.dataset, options.folder)
        command = [sys.executable, __file__, "--how", how, "--folder", str(options.folder)]
        found = measured([*command, "--parts", str(options.parts), "--heap", options.heap])
        of_spark = {"parts": options.parts, "heap": options.heap} if how == "spark" else {"parts": 1, "heap": ""}
        rows.append({"dataset": options.dataset, "split": how, "rows": count, **of_spark, **found})
        print(rows[-1], flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
