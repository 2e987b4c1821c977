r"""Time, peak memory and disk of the split of a synthetic log within bounds of memory, beside the split in memory.

Run::

    python packages/rec-data/benchmarks/bench_split_memory.py --dataset twin:megamarket@0.348 --folder bench \
        --memory auto 1GiB --csv split_memory.csv

``--text-ids``: users and items are texts of 32 characters. ``--parts`` makes so many instead of those of the bound, to
measure what very many cost. A bound that is refused has a row with the message.

Each split runs in a process of its own. The peak is its resident memory, every 0.2 seconds, which includes the pages of
mapped files that the system could take back. The disk is the most that the folder of the split held, with the split.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import threading
import time
from pathlib import Path

from bench_spark import add_row, make_log, measured


def split(memory: str, folder: Path, parts: int | None) -> None:
    """Split the log in this process."""
    from rec_data.config import Split
    from rec_data.errors import DataError
    from rec_data.splits import split

    if parts is not None:
        split.parts_of = lambda rows, bound: parts
    try:
        split.split_log(folder / "log.parquet", folder / "split", Split(memory=memory))
    except DataError as error:
        (folder / "refused").write_text(str(error))


def write_text_ids(folder: Path) -> None:
    """Replace the ids of the log by texts."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()})
    with (
        pq.ParquetFile(folder / "log.parquet") as log,
        pq.ParquetWriter(folder / "texts.parquet", schema, compression="zstd") as texts,
    ):
        for rows in log.iter_batches(columns=schema.names):
            ids = [pc.utf8_lpad(rows[name].cast(pa.string()), 32, "0") for name in schema.names[:2]]
            texts.write_batch(pa.record_batch([*ids, rows["timestamp"]], schema=schema))
    (folder / "texts.parquet").replace(folder / "log.parquet")


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
    parser.add_argument("--text-ids", action="store_true", help="in a folder of their own")
    parser.add_argument("--parts", type=int, help="instead of those of the bound")
    parser.add_argument("--revision", default="", help="of the code, for the table")
    parser.add_argument("--csv", type=Path, help="append the rows to this table")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        split(options.run, options.folder, options.parts)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    fresh_log = not (options.folder / "log.parquet").exists()
    count, out = make_log(options.dataset, options.folder), options.folder / "split"
    if options.text_ids and fresh_log:
        write_text_ids(options.folder)
    print(f"log of {count} interactions: {time.perf_counter() - started:.0f} s", flush=True)
    for memory in options.memory:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (options.folder / "refused").unlink(missing_ok=True)
        load, sizes, stop = os.getloadavg()[0], [0], threading.Event()
        watcher = threading.Thread(target=watch, args=(out, sizes, stop))
        watcher.start()
        try:
            parts = [] if options.parts is None else ["--parts", str(options.parts)]
            found = measured([sys.executable, __file__, "--run", memory, "--folder", str(options.folder), *parts])
        finally:
            stop.set()
            watcher.join()
        refused = (options.folder / "refused").read_text() if (options.folder / "refused").exists() else None
        row = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "load": round(load, 1),
            "revision": options.revision,
            "dataset": options.dataset,
            "rows": count,
            "memory": memory,
            "parts": json.loads((out / "summary.json").read_text()).get("parts", 1) if refused is None else None,
            **found,
            "disk_gib": round(max(sizes) / 2**30, 2),
            "ids": "texts" if options.text_ids else "integers",
            "refused": refused,
        }
        print(row, flush=True)
        if options.csv:
            add_row(options.csv, row)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
