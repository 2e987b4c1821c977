"""Time and peak memory of making, reading and splitting a log, beside the same split in plain pandas.

Run::

    python packages/rec-data/benchmarks/bench_split.py --dataset twin:megamarket --folder bench
    python packages/rec-data/benchmarks/bench_split.py --dataset twin:megamarket@0.05 --folder bench --pandas

Every stage runs in a process of its own, so that its peak is its own.
"""

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("generate", "read", "split")


def generate(dataset: str, folder: Path) -> int:
    """Writes the twin as if it were a raw file."""
    from rec_data.sources import synthetic

    _, shape = synthetic.parse(dataset.removeprefix("twin:"))
    return synthetic.write_synthetic_log(shape, folder / "raw.parquet", seed=1)


def shuffle(folder: Path) -> int:
    """Puts the rows into random order: the hardest case for the sort. Not measured as a stage of ours."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "raw.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    columns = [column.to_numpy()[order] for column in table.columns]
    import pyarrow as pa

    pq.write_table(pa.table(columns, names=table.schema.names), folder / "raw.parquet", compression="zstd")
    return len(order)


def read(folder: Path) -> int:
    """The download stage, of a file of one's own."""
    from rec_data.sources.fetch import fetch_log

    return int(fetch_log("raw.parquet", folder / "log.parquet", root=folder)["rows"])


def split(folder: Path) -> int:
    """The split stage."""
    from rec_data.splits.split import split_log

    out = folder / "split"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return int(split_log(folder / "log.parquet", out)["log"]["interactions"])


def split_in_pandas(folder: Path) -> int:
    """The temporal protocol as one would write it in pandas, histories as lists."""
    import numpy as np
    import pandas as pd

    log = pd.read_parquet(folder / "log.parquet")
    rows = len(log)
    log = log[log.groupby("item_id")["item_id"].transform("size") >= 5]
    log = log[log.groupby("user_id")["user_id"].transform("size") >= 3]
    log = log.sort_values(["user_id", "timestamp"], kind="stable")
    boundary = np.sort(log["timestamp"].to_numpy())[int(len(log) * (1 - 0.1))]
    past = log[log["timestamp"] < boundary]
    users = past["user_id"].unique()
    validating = set(np.random.default_rng(1).choice(users, size=int(len(users) * 0.05), replace=False))
    is_validating = past["user_id"].isin(validating)
    train, validation = past[~is_validating], past[is_validating]
    items = np.sort(train["item_id"].unique())
    validation = validation[validation["item_id"].isin(items)]
    known = log[log["item_id"].isin(items) & ~log["user_id"].isin(validating)]
    future_users = known.loc[known["timestamp"] >= boundary, "user_id"].unique()
    test = known[known["user_id"].isin(future_users) & known["user_id"].isin(train["user_id"].unique())]
    codes = pd.Series(np.arange(len(items)), index=items)
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        part = part.assign(item_id=part["item_id"].map(codes))
        lists = part.groupby("user_id").agg(history=("item_id", list), timestamps=("timestamp", list)).reset_index()
        if name != "train":
            lists["target"] = lists["history"].str[-1]
            lists["history"] = lists["history"].str[:-1]
        lists.to_parquet(folder / f"pandas_{name}.parquet", compression="zstd")
    return rows


def run_stage(stage: str, dataset: str, folder: Path) -> None:
    """Runs one stage in this process and prints what it took."""
    started = time.perf_counter()
    if stage == "generate":
        rows = generate(dataset, folder)
    else:
        rows = {"shuffle": shuffle, "read": read, "split": split, "pandas": split_in_pandas}[stage](folder)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row = {
        "stage": stage,
        "rows": rows,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(
            usage.ru_utime + usage.ru_stime, 2
        ),  # imports included; tells a busy machine from a slow step
        "peak_gib": round(peak, 3),
    }
    print(json.dumps(row))


def main() -> None:
    """Runs the stages one after another and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="twin:megamarket@0.05")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go; some GB for 100 M interactions")
    parser.add_argument("--pandas", action="store_true", help="also split in pandas")
    parser.add_argument("--shuffled", action="store_true", help="put the rows into random order first")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.dataset, arguments.folder)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stages = list(STAGES)
    if arguments.shuffled:
        stages.insert(1, "shuffle")
    if arguments.pandas:
        stages.append("pandas")
    rows = []
    print(f"{arguments.dataset}\n{'stage':10} {'rows':>12} {'seconds':>9} {'CPU s':>9} {'peak GiB':>9}")
    for stage in stages:
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--dataset", arguments.dataset]
        done = subprocess.run([*command, "--stage", stage], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            sys.exit(f"stage {stage} failed:\n{done.stderr}")
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"dataset": arguments.dataset, "shuffled": arguments.shuffled, **row})
        numbers = f"{row['seconds']:9.2f} {row['cpu_seconds']:9.2f} {row['peak_gib']:9.3f}"
        print(f"{row['stage']:10} {row['rows']:12,} {numbers}", flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
