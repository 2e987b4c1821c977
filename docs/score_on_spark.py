"""Lists for all users on a Spark cluster: those of ``cutrec recommend``, from `mapInPandas`.

    spark-submit --master "local[2]" docs/score_on_spark.py --log data/download/log.parquet --out lists

Each task loads the model once and ranks for the users of about 500,000 events at a time. On a cluster, install
``cutrec`` on the executors, and give paths that all of them can read. A user is in the same part as in
``cutrec recommend --part``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from cutrec.commands.recommend import part_of_users
from cutrec.paths import MODEL, model_file
from cutrec.workflow.recommend import choose_device, load_model
from cutrec.workflow.recommendations import list_table, ranked_batches
from rec_data.sequences.histories import table_histories
from rec_models.encoders import Encoder


def rank(rows: pd.DataFrame, encoder: Encoder, items: pa.Array, *, k: int, tie_seed: int | None) -> pd.DataFrame:
    """The lists of some users, from all of their events in the order of the log."""
    found = table_histories(pa.Table.from_pandas(rows, preserve_index=False), items, tie_seed=tie_seed)
    ranked = ranked_batches(encoder, found.store, k, batch_users=1024, filter_seen=True, title="rank")
    tables = [
        list_table(users.numpy(), lists.ids.cpu().numpy(), lists.scores.cpu().numpy(), found.user_names, items)
        for users, lists in ranked
    ]
    return pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame()


def whole_users(frames: Iterator[pd.DataFrame], events: int) -> Iterator[pd.DataFrame]:
    """Join frames that are sorted by user, and cut them between users, at about so many events."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= events:
            rows = pd.concat(waiting)
            last = rows["user_id"] == rows["user_id"].iloc[-1]  # more of this user may follow
            if not last.all():
                yield rows[~last]
            waiting = [rows[last]]
    if waiting:
        yield pd.concat(waiting)


def recommend(log: DataFrame, model: Path, *, k: int, tie_seed: int | None, events: int = 500_000) -> DataFrame:
    """The lists of all users of a log: user_id, item_id, rank, score."""
    item = "bigint" if pa.types.is_integer(load_model(model, torch.device("cpu"))[1].type) else "string"
    user = log.schema["user_id"].dataType.simpleString()

    def rank_all(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        encoder, items = load_model(model, choose_device("auto"))
        for rows in whole_users(frames, events):
            if len(found := rank(rows, encoder, items, k=k, tie_seed=tie_seed)):
                yield found

    place = [f.col("_metadata.file_path").alias("file"), f.col("_metadata.row_index").alias("row")]
    rows = log.select("user_id", "item_id", "timestamp", *place).repartition("user_id")
    rows = rows.sortWithinPartitions("user_id", "file", "row").drop("file", "row")
    return rows.mapInPandas(rank_all, f"user_id {user}, item_id {item}, rank int, score float")


def main() -> None:
    """Read the options, rank and write parquet files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--log", required=True, help="parquet with user_id, item_id, timestamp, as the stage download writes it"
    )
    parser.add_argument("--out", required=True, help="the folder of the lists")
    parser.add_argument("--model", type=Path, default=MODEL.parent, help=f"folder of a model (default: {MODEL.parent})")
    parser.add_argument("--k", type=int, default=10)
    text = "only one part of the users, as of cutrec recommend"
    parser.add_argument("--part", type=part_of_users, default=(1, 1), metavar="I/N", help=text)
    parser.add_argument("--seed", type=int, default=42, help="seed of params.yaml, which orders events of equal times")
    parser.add_argument(
        "--row-order", action="store_true", help="download.ties is row_order: keep the order of the rows"
    )
    options = parser.parse_args()
    number, of = options.part
    spark = SparkSession.builder.appName("cutrec recommend").getOrCreate()
    hashed = f.crc32(f.col("user_id").cast("string").cast("binary"))
    log = spark.read.parquet(options.log).where(hashed % of == number - 1)
    lists = recommend(log, model_file(options.model), k=options.k, tie_seed=None if options.row_order else options.seed)
    lists.write.mode("errorifexists").parquet(options.out)
    spark.stop()


if __name__ == "__main__":
    main()
