"""The split of a log on a Spark cluster: the files of the stage split, in parts of the users.

    spark-submit --master "local[2]" docs/split_on_spark.py --log data/download/log.parquet --out shared/split --parts 4

The settings are those of params.yaml. On a cluster, install ``cutrec[spark]`` where you submit and on the executors,
and give a folder for ``--out`` that all of them reach by the same path.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from cutrec.config import from_mapping, read_yaml, refuse_contradictions
from cutrec.config_point import Config
from cutrec.console import run_and_exit
from cutrec.errors import StageError
from cutrec.nested import changed
from cutrec.outputs import recover, temporary_folder
from cutrec.paths import PARAMS
from cutrec.workflow.split import complete
from rec_data.errors import DataError
from rec_data.locks import locked
from rec_data.splits.spark import readable, split_on_spark

COLUMNS = ("user_id", "item_id", "timestamp")
ROWS = ("_file", "_row")
"""The columns that say the order of the rows of parquet files."""
CHANGED = ("split", "seed", "evaluate", "download")
"""What the split reads of params.yaml."""


def read_log(spark: SparkSession, options: argparse.Namespace, *, row_order: bool) -> DataFrame:
    """The log with the columns `COLUMNS`, and those of `ROWS` if the order of rows counts."""
    if row_order and options.format != "parquet":
        raise StageError(f"--format: found {options.format} with download.ties row_order, allowed: parquet")
    try:
        with readable():
            table = options.format == "table"
            log = spark.read.table(options.log) if table else spark.read.format(options.format).load(options.log)
    except DataError as error:
        if "DATA_SOURCE_NOT_FOUND" not in str(error):
            raise
        allowed = f"the package of {options.format} for your version of Spark, by spark-submit --packages"
        raise StageError(f"--format: found {options.format}, which this Spark lacks, allowed: {allowed}") from error
    place = [f.col("_metadata.file_path").alias(ROWS[0]), f.col("_metadata.row_index").alias(ROWS[1])]
    return log.select(*map(f.expr, options.select), *(place if row_order else ()))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which gets this name by one rename when the block ends."""
    with locked(out):
        recover(out)
        if out.exists():
            raise StageError(f"--out: found {out}, allowed: a new folder")
        folder = temporary_folder(out)
        try:
            folder.mkdir()
            yield folder
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def positive(text: str) -> int:
    """The type of ``--parts``."""
    if not text.isdecimal() or not 1 <= int(text) <= 99_999:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: 1 to 99999")
    return int(text)


def read_settings(changes: list[str]) -> Config:
    """The settings of params.yaml, some of them changed."""
    config = from_mapping(changed(read_yaml(PARAMS), changes, CHANGED))
    refuse_contradictions(config)
    if config.paper_faithful and config.split.strategy == "temporal":
        raise StageError("paper_faithful: found true, allowed on Spark: false")
    return config


def main() -> None:
    """Read the options and the settings, and split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, help="the path or the name of the log, as --format reads it")
    formats = ("parquet", "delta", "iceberg", "table")
    parser.add_argument("--format", choices=formats, default="parquet", help="table: a name of Spark's catalog")
    text = f"SQL of the three columns, such as 'visitor AS user_id' (default: {' '.join(COLUMNS)})"
    parser.add_argument("--select", nargs=3, default=COLUMNS, metavar="SQL", help=text)
    parser.add_argument("--out", required=True, type=Path, help="a new folder that driver and executors share")
    text = "how many parts of the users (default: one per 2^26 interactions)"
    parser.add_argument("--parts", type=positive, metavar="P", help=text)
    text = "change of params.yaml, such as split.strategy=leave_one_out; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=text)
    options = parser.parse_args()
    config = read_settings(options.changes)
    tie_seed = config.download.tie_seed(config.seed)
    with readable(), new_folder(options.out.resolve()) as folder:
        spark = SparkSession.builder.appName("cutrec split").getOrCreate()
        if not os.environ.get("CUTREC_TRACEBACK"):  # an error is one line; executors write logs of their own
            spark.sparkContext.setLogLevel("OFF")
        log = read_log(spark, options, row_order=tie_seed is None)
        summary = split_on_spark(
            log,
            folder,
            config.split,
            parts=options.parts,
            seed=config.seed,
            filter_seen=config.evaluate.filter_seen,
            tie_seed=tie_seed,
            order=ROWS if tie_seed is None else (),
        )
        complete(config, folder, summary)
    spark.stop()
    print(f"{options.out}: {summary['users']} users, {summary['items']} items, {summary.get('parts', 1)} parts")


if __name__ == "__main__":
    run_and_exit(main)
