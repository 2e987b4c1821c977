r"""Time and peak memory of the division of a log in parts: by polars and numpy, as the split does it, and by DuckDB.

Run::

    python packages/rec-data/benchmarks/bench_engines.py --dataset twin:megamarket@0.348 --folder bench \
        --csv packages/rec-data/benchmarks/results/engines.csv

Both count items, then users of the items that are kept, number them in the order of their ids, and write the rows in
eight parts of the users: polars and numpy in the order of the log, DuckDB with the number of each row, by which it must
be sorted again. Each runs in a process of its own, DuckDB with a limit of memory.
"""

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

from bench_spark import add_row, make_log, measured

PARTS = 8


def divide_in_polars(folder: Path, to: Path) -> None:
    """The first half of `rec_data.splits.bounded.encode_in_parts`."""
    import numpy as np

    from rec_data.sequences.parts import hash_ids_of
    from rec_data.splits import bounded
    from rec_data.splits.encode import filter_log

    found = filter_log(folder / "log.parquet", min_item_count=5, min_user_count=3)
    hashes = [hash_ids_of(block.to_arrow()) % PARTS for block in bounded._blocks(found.users)]
    part_of = np.concatenate(hashes, dtype=np.int32, casting="unsafe")
    bounded._divide(found, part_of, [np.flatnonzero(part_of == part).astype(np.int32) for part in range(PARTS)], to)


def divide_in_duckdb(folder: Path, to: Path, memory: str) -> None:
    """The same in SQL."""
    import duckdb

    log = f"read_parquet('{folder / 'log.parquet'}', file_row_number = true)"
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{memory}'; SET temp_directory = '{folder}'; SET threads = 2")
        for name, rows, fewest in (("item", log, 5), ("user", f"{log} SEMI JOIN items USING (item_id)", 3)):
            kept = f"SELECT {name}_id FROM {rows} GROUP BY 1 HAVING count(*) >= {fewest}"  # noqa: S608
            numbers = f"row_number() OVER (ORDER BY {name}_id) - 1 AS {name}"
            connection.execute(f"CREATE TEMP TABLE {name}s AS SELECT {name}_id, {numbers} FROM ({kept})")  # noqa: S608
        connection.execute(
            f'COPY (SELECT "user", item, timestamp, file_row_number, hash(user_id) % {PARTS} AS part FROM {log} '  # noqa: S608
            f"JOIN items USING (item_id) JOIN users USING (user_id)) TO '{to}' (FORMAT parquet, PARTITION_BY (part))"
        )


def main() -> None:
    """Divide by each, print the rows and append them to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="twin:megamarket@0.0871")
    parser.add_argument("--folder", type=Path, required=True, help="where the log and the parts go")
    parser.add_argument("--memory", default="2GiB", help="limit of DuckDB")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--revision", default="", help="of the code, for the table")
    parser.add_argument("--csv", type=Path, help="append the rows to this table")
    parser.add_argument("--run", choices=("polars", "duckdb"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    to = options.folder / "parts"
    if options.run == "polars":
        divide_in_polars(options.folder, to)
    elif options.run:
        divide_in_duckdb(options.folder, to, options.memory)
    if options.run:
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    count = make_log(options.dataset, options.folder)
    for engine in ("polars", "duckdb") * options.repeats:
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        load = os.getloadavg()[0]
        command = [sys.executable, __file__, "--folder", str(options.folder), "--memory", options.memory]
        row = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "load": round(load, 1),
            "revision": options.revision,
            "dataset": options.dataset,
            "rows": count,
            "engine": engine,
            **measured([*command, "--run", engine]),
        }
        print(row, flush=True)
        if options.csv:
            add_row(options.csv, row)
    shutil.rmtree(to)


if __name__ == "__main__":
    main()
