"""The script that splits on a Spark cluster, in local mode: a split that the pipeline takes, and errors of one line."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cutrec.checksums import verify_folder
from cutrec.config_point import Config
from cutrec.workflow.split import split
from tests.docs.pages import ROOT, commands
from tests.small_log import small_log, write_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed (cutrec[spark])"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is no java here"),
]


def submit(*options: str) -> subprocess.CompletedProcess[str]:
    """Spark sends all that Python prints, errors too, to its standard output."""
    place = Path(sys.executable).with_name("spark-submit")
    command = [str(place), "--master", "local[2]", "--conf", "spark.sql.shuffle.partitions=2"]
    script = str(ROOT / "docs/split_on_spark.py")
    return subprocess.run([*command, script, *options], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data/download").mkdir(parents=True)
    small_log().write_parquet(tmp_path / "data/download/log.parquet")
    write_params(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    return tmp_path


def test_the_command_of_the_page_makes_the_split_of_the_stage(folder: Path):
    (command,) = [line for line in commands(ROOT / "docs/split-on-spark.md", "sh") if "--master" in line]
    done = submit(*command.partition("split_on_spark.py")[2].split())
    assert done.returncode == 0, done.stderr[-3000:]
    split(Config(), Path("data/download/log.parquet"), Path("data/split"))
    found, expected = (json.loads(Path(place, "summary.json").read_text()) for place in ("shared/split", "data/split"))
    del expected["log_sha256"]
    assert found == expected | {"parts": 4}
    for name in ("train", "validation", "test"):
        divided = pl.read_parquet(Path("shared/split") / name).sort("user_id")
        assert divided.equals(pl.read_parquet(Path("data/split") / f"{name}.parquet")), name
    verify_folder(Path("shared/split"))
    again = submit("--log", "data/download/log.parquet", "--out", "shared/split")
    assert again.returncode == 1
    assert again.stdout.splitlines()[-1] == f"error: --out: found {folder}/shared/split, allowed: a new folder"


def test_a_table_of_other_columns_in_the_order_of_its_settings(folder: Path):
    log = pl.read_parquet("data/download/log.parquet")
    names = {"user_id": "visitor", "item_id": "product", "timestamp": "at"}
    at = pl.from_epoch("timestamp").dt.replace_time_zone("UTC").alias("timestamp")
    log.with_columns(at).rename(names).write_parquet("events.parquet")
    table = ["--format", "table", "--log", f"parquet.`{folder}/events.parquet`", "--out", "split"]
    select = ["--select", "visitor AS user_id", "product AS item_id", "unix_seconds(at) AS timestamp"]
    changes = ["-S", "split.strategy=leave_one_out", "-S", "seed=5"]
    done = submit(*table, *select, *changes)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(Path("split/summary.json").read_text())
    assert [summary[key] for key in ("strategy", "seed", "log")] == [
        "leave_one_out",
        5,
        {"users": 150, "items": 40, "interactions": len(log)},
    ]
    failed = submit(*table[:-1], "other", *select[:3], "at AS timestamp")
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1].startswith("error: the log: column 'timestamp' holds timestamp; allowed: ")
    assert not Path("other").exists()
    assert not list(folder.glob(".*"))


def test_a_format_whose_jar_is_missing_is_named(folder: Path):
    done = submit("--format", "delta", "--log", "events", "--out", "split")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("error: --format: found delta, which this Spark lacks, allowed: ")
    assert not Path("split").exists()
