"""The split on Spark, in local mode: row for row that of one machine, and nothing of a job that fails."""

import importlib.util
import shutil
import sys
from functools import partial

import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.splits.split import split_log
from tests.rec_data.splits.in_parts import CASES, check_equal, histories, write_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed (cutrec[spark])"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is no java here"),
]


@pytest.fixture(scope="module")
def session():
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master("local[2, 2]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.shuffle.partitions", "2").config("spark.log.level", "OFF")
        spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
        yield spark
        spark.stop()


def in_order_of_rows(session, log):
    from pyspark.sql import functions as f

    return session.read.parquet(str(log)).select("*", f.col("_metadata.row_index").alias("row"))


def split_both(session, tmp_path, log, settings, parts, **options):
    from rec_data.splits.spark import split_on_spark

    folders = tmp_path / "memory", tmp_path / "spark"
    for folder in folders:
        folder.mkdir()
    expected = split_log(log, folders[0], settings, **options)
    order = ("row",) if options.get("tie_seed", 42) is None else ()
    rows = in_order_of_rows(session, log)
    found = split_on_spark(rows, folders[1], settings, parts=parts, order=order, **options)
    return folders, expected, found


@pytest.mark.parametrize("case", CASES)
def test_the_parts_together_are_the_split_of_one_machine(session, tmp_path, case):
    shape, settings, parts, options = CASES[case]
    folders, expected, found = split_both(session, tmp_path, write_log(tmp_path, **shape), settings, parts, **options)
    check_equal(folders, expected, found, parts)


def test_one_part_gives_the_files_of_one_machine(session, tmp_path):
    folders, expected, found = split_both(session, tmp_path, write_log(tmp_path), Split(), 1)
    assert found == expected
    one, other = ({path.relative_to(folder): path for path in folder.rglob("*.*")} for folder in folders)
    assert one.keys() == other.keys()
    for name in one:
        if name.suffix == ".arrow" or name.parts[0] in ("train.parquet", "validation.parquet", "test.parquet"):
            assert one[name].read_bytes() == other[name].read_bytes(), name


def test_a_task_that_fails_leaves_nothing_and_runs_again(session, tmp_path, monkeypatch):
    from rec_data.splits import spark

    part_writer, attempts = spark.part_writer, tmp_path / "attempts"

    def fail_once(write, number):  # pickled as a whole, because a worker does not import this module
        facts = write(number)
        if number == 2 and not attempts.exists():
            attempts.touch()
            raise OSError(28, "No space left on device")
        return facts

    def fail(write, number):
        attempts.unlink(missing_ok=True)
        return fail_once(write, number)

    log, out = session.read.parquet(str(write_log(tmp_path))), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(spark, "part_writer", lambda *given, **options: partial(fail, part_writer(*given, **options)))
    with pytest.raises(DataError, match=r"^a task on Spark failed: OSError: \[Errno 28\] No space left on device$"):
        spark.split_on_spark(log, out, parts=3)
    assert not list(out.iterdir())
    attempts.unlink()
    monkeypatch.setattr(
        spark, "part_writer", lambda *given, **options: partial(fail_once, part_writer(*given, **options))
    )
    summary = spark.split_on_spark(log, out, parts=3)
    assert attempts.exists()
    assert len(histories(out, "train")) == summary["train"]["users"]
    assert not list(out.glob(".*"))


def test_a_log_that_cannot_be_split_is_refused_in_one_line(session, tmp_path):
    from rec_data.splits.spark import split_on_spark
    from rec_data.splits.spark_parts import check_reach

    out = tmp_path / "out"
    out.mkdir()
    for columns, message in {
        "1 user, 2 item_id, 3 timestamp": r"the log: found the columns user, .* \(--select 'visitor AS user_id'",
        "1 user_id, 2.5 item_id, 3 timestamp": r"the log: column 'item_id' holds decimal\(2,1\); allowed: integers or",
        "1 user_id, 2 item_id, now() timestamp": r"the log: column 'timestamp' holds timestamp; .*unix_micros",
        "1 user_id, if(id = 1, 2, null) item_id, id timestamp": "the log: column 'item_id' has 2 empty values; allowed",
        "1 user_id, id item_id, id timestamp": "split.min_item_count 5 drops all 3 items; allowed: a smaller one",
        "if(id < 9, raise_error('no such block'), 'a') user_id, id item_id, id timestamp": ".*no such block",
    }.items():
        with pytest.raises(DataError, match=f"^{message}") as raised:
            split_on_spark(session.sql(f"SELECT {columns} FROM range(3)"), out)
        assert "\n" not in str(raised.value)
        assert not list(out.iterdir())
    with pytest.raises(DataError, match=r"^download.ties: found row_order of a log whose rows have no order"):
        split_on_spark(session.range(1), out, tie_seed=None)
    with pytest.raises(DataError, match=r"^out .*nowhere: not found on the worker .*, allowed: a folder that the dri"):
        check_reach(tmp_path / "nowhere" / ".work", 0)
