"""The split on Spark, in local mode: row for row that of one machine, and nothing of a job that fails."""

import importlib.util
import json
import shutil
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.sequences.subsets import open_stores
from rec_data.splits.split import split_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed (cutrec[spark])"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is no java here"),
]
DAY = 86_400
TEXTS = ["", "a", "aa", "é", "z", "Z", "\ufb00", "\U0001f600", "10", "9"]
"""Of those that are no ASCII, two have another order in UTF-16, which Java holds text in, than in UTF-8."""


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


def write_log(folder, *, texts=False, rows=1500, users=60, seed=0):
    """Times of days, so that many are equal, and duplicates; users begin at different times."""
    random = np.random.default_rng(seed)
    who, what = random.integers(0, users, rows), (40 * random.random(rows) ** 2).astype(int)
    when = 1_600_000_000 // DAY * DAY + (random.integers(0, 60, rows) + who % 30) * DAY
    if texts:
        users, items = (
            [f"{TEXTS[code % len(TEXTS)]}{code // len(TEXTS) or ''}" for code in ids] for ids in (who, what)
        )
    else:
        users, items = who.astype(np.int32) - 20, what * 10**15 - 10**16
    log = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": when})
    log.write_parquet(folder / "log.parquet", row_group_size=400)
    return folder / "log.parquet"


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


def histories(folder, name):
    """All stores of a subset as (user, history, target), in the order of users."""
    hashes = {what: read_ids(folder / f"{what}.parquet").hash for what in ("users", "items")}
    rows = []
    for store in open_stores(folder / "sequences", name, hashes=hashes):
        targets = [None] * len(store) if store.targets is None else store.targets.tolist()
        ends = store.offsets.tolist()
        items = [store.items[begin:end].tolist() for begin, end in pairwise(ends)]
        rows += zip(store.user_ids.tolist(), items, targets, strict=True)
    return sorted(rows, key=lambda row: row[0])


CASES = {
    "texts": ({"texts": True}, Split(), 3, {}),
    "by time, a part without users": (
        {"users": 12},
        Split(validation="time", test_until=1_606_000_000, min_item_count=20, min_user_count=40),
        16,
        {"seed": 3, "filter_seen": False},
    ),
    "leave one out, order of rows": (
        {"texts": True},
        Split(strategy="leave_one_out", holdout=2, target="random"),
        4,
        {"tie_seed": None},
    ),
    "several targets": ({}, Split(target="successive", seen_targets="drop", min_item_count=None), 2, {"tie_seed": 7}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_parts_together_are_the_split_of_one_machine(session, tmp_path, case):
    shape, settings, parts, options = CASES[case]
    folders, expected, found = split_both(session, tmp_path, write_log(tmp_path, **shape), settings, parts, **options)
    assert found.pop("parts") == parts
    assert json.dumps(found) == json.dumps(expected)
    assert json.loads((folders[1] / "summary.json").read_text()) == {**expected, "parts": parts}
    for what in ("users", "items"):
        one, other = (pl.read_parquet(folder / f"{what}.parquet") for folder in folders)
        assert one.cast(other.schema).equals(other)
    for name in ("train", "validation", "test"):
        one, other = (histories(folder, name) for folder in folders)
        assert one
        assert one == other
        whole, divided = pl.read_parquet(folders[0] / f"{name}.parquet"), pl.read_parquet(folders[1] / name)
        assert whole.equals(divided.sort("user_id", maintain_order=True))


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

    write_part, attempts = spark.write_part, tmp_path / "attempts"

    def fail_once(number, **options):  # pickled as a whole, because a worker does not import this module
        facts = write_part(number, **options)
        if number == 2 and not attempts.exists():
            attempts.touch()
            raise OSError(28, "No space left on device")
        return facts

    def fail(number, **options):
        attempts.unlink(missing_ok=True)
        return fail_once(number, **options)

    log, out = session.read.parquet(str(write_log(tmp_path))), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(spark, "write_part", fail)
    with pytest.raises(DataError, match=r"^a task on Spark failed: OSError: \[Errno 28\] No space left on device$"):
        spark.split_on_spark(log, out, parts=3)
    assert not list(out.iterdir())
    attempts.unlink()
    monkeypatch.setattr(spark, "write_part", fail_once)
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
