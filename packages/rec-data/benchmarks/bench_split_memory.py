r"""Time, peak memory and disk of the split of a synthetic log within bounds of memory, beside the split in memory.

Run::

    python packages/rec-data/benchmarks/bench_split_memory.py --dataset twin:megamarket@0.348 --folder bench \
        --memory auto 1GiB --csv split_memory.csv

Each split runs in a process of its own. The peak is its resident memory, every 0.2 seconds, which includes the pages of
mapped files that the system could take back. The disk is the most that the folder of the split held, with the split.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import sys
import threading
import time
from pathlib import Path

from bench_spark import make_log, measured


def split(memory: str, folder: Path) -> None:
    """Split the log in this process."""
    from rec_data.config import Split
    from rec_data.splits.split import split_log

    split_log(folder / "log.parquet", folder / "split", Split(memory=memory))


def watch(folder: Path, sizes: list[int], stop: threading.Event) -> None:
    """Append the size of a folder every second."""
    while not stop.wait(1):
        total = 0
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    total += Path(place, name).stat().st_size
                except FileNotFoundError:  # it has just been removed
                    continue
        sizes.append(total)


def main() -> None:
    """Split within each bound, print the rows and append them to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="twin:megamarket@0.0871")
    parser.add_argument("--folder", type=Path, required=True, help="where the log and the split go")
    parser.add_argument("--memory", nargs="+", default=["auto", "1GiB"], help="values of split.memory")
    parser.add_argument("--revision", default="", help="of the code, for the table")
    parser.add_argument("--csv", type=Path, help="append the rows to this table")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        split(options.run, options.folder)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    count, out = make_log(options.dataset, options.folder), options.folder / "split"
    print(f"log of {count} interactions: {time.perf_counter() - started:.0f} s", flush=True)
    for memory in options.memory:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        load, sizes, stop = os.getloadavg()[0], [0], threading.Event()
        watcher = threading.Thread(target=watch, args=(out, sizes, stop))
        watcher.start()
        try:
            found = measured([sys.executable, __file__, "--run", memory, "--folder", str(options.folder)])
        finally:
            stop.set()
            watcher.join()
        row = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "load": round(load, 1),
            "revision": options.revision,
            "dataset": options.dataset,
            "rows": count,
            "memory": memory,
            "parts": json.loads((out / "summary.json").read_text()).get("parts", 1),
            **found,
            "disk_gib": round(max(sizes) / 2**30, 2),
        }
        print(row, flush=True)
        if options.csv:
            fresh = not options.csv.exists()
            with options.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
