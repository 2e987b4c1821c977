"""Lists for all users by parts: the same as without parts, resumable, and never mixed with others."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutrec.errors import StageError
from cutrec.workflow import history_sources
from cutrec.workflow.history_sources import LogSource
from cutrec.workflow.recommend import recommend
from cutrec.workflow.scoring import Scored, give_back_memory, score_part
from rec_data.sequences.histories import read_histories
from rec_data.sequences.parts import Part
from rec_models.config import ModelSettings
from rec_models.encoders import Encoder, build_encoder

ITEMS = pa.array([f"i{number}" for number in range(30)])
JOB = {"model": "m1", "log": "l1", "k": 4, "keep_seen": False}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    found = build_encoder(ModelSettings(model="sasrec", hidden=8, max_seq_len=5), len(ITEMS))
    torch.nn.init.normal_(found.item_table)
    return found.eval().requires_grad_(False)


def write_log(path: Path, *, text: bool = False, users: int = 40, rows: int = 300, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    user = random.integers(0, users, rows)
    columns = {
        "user_id": [f"u{number}" for number in user] if text else user,
        "item_id": [f"i{number}" for number in random.integers(0, 33, rows)],  # three are unknown
        "timestamp": random.integers(0, 50, rows),  # many are equal
    }
    pl.DataFrame(columns).write_parquet(path, row_group_size=64)
    return path


def score(encoder: Encoder, log: Path, out: Path, part: Part, job: dict[str, Any] = JOB, **options: Any) -> Scored:
    out.mkdir(exist_ok=True)
    source = LogSource(log, ITEMS, options.pop("tie_seed", 3))
    return score_part(encoder, ITEMS, source, out, part, job, k=4, batch_users=16, keep_seen=False, **options)


@given(text=st.booleans(), parts=st.integers(1, 9), chunk=st.integers(5, 400), ties=st.sampled_from([None, 3]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_lists_of_all_parts_are_those_without_parts(
    text: bool, parts: int, chunk: int, ties: int | None, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("parts")
    log, out = write_log(folder / "log.parquet", text=text), folder / "out"
    whole = read_histories(log, ITEMS, tie_seed=ties)
    recommend(encoder, whole, ITEMS, folder / "all.parquet", k=4, batch_users=16, keep_seen=False, as_csv=False)
    done = [score(encoder, log, out, Part(i, parts), chunk_events=chunk, tie_seed=ties) for i in range(1, parts + 1)]
    assert [each.all_complete for each in done] == [False] * (parts - 1) + [True]
    expected = pl.read_parquet(folder / "all.parquet").sort("user_id", "rank")
    found = pl.read_parquet(out / "*.parquet").sort("user_id", "rank")
    assert found.drop("score").equals(expected.drop("score"))
    assert found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-5, abs=1e-5)
    assert sum(each.users for each in done) == expected["user_id"].n_unique()
    assert ds.dataset(out).count_rows() == len(expected)  # the other files are no data for readers
    names = {path.name for path in out.iterdir() if path.suffix != ".parquet"}
    assert names == {"_SUCCESS", "_recommend.json", *(f"_{Part(i, parts).name}.json" for i in range(1, parts + 1))}


def test_a_killed_part_goes_on_and_a_complete_one_is_left_as_it_is(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log, out, part = write_log(tmp_path / "log.parquet"), tmp_path / "out", Part(1, 2)
    read = history_sources.read_histories
    calls = []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(*arguments, **options)

    monkeypatch.setattr(history_sources, "read_histories", killed)
    with pytest.raises(KeyboardInterrupt):
        score(encoder, log, out, part, chunk_events=30)
    (out / ".tmp-part-00001-of-00002").mkdir()  # as SIGKILL leaves it
    (out / "part-00001-of-00002-chunk-00003-of-00005.parquet.part").write_text("half")
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(first) == 2
    assert not list(out.glob("_part*"))
    again = score(encoder, log, out, part, chunk_events=30)
    assert (again.chunks, again.ranked) == (5, 3)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(kept) == 5
    assert first.items() <= kept.items()
    assert score(encoder, log, out, part, chunk_events=30).ranked == 0
    assert kept == {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    rows = sum(len(pl.read_parquet(path)) for path in out.glob("*.parquet"))
    assert json.loads((out / "_part-00001-of-00002.json").read_text())["rows"] == rows == again.rows
    assert not list(out.glob(".*"))
    assert not list(out.glob("*.part"))


def test_an_empty_part_is_complete(encoder: Encoder, tmp_path: Path):
    log = write_log(tmp_path / "log.parquet", users=1, rows=5)
    done = [score(encoder, log, tmp_path / "out", Part(number, 3)) for number in (1, 2, 3)]
    assert sorted(each.users for each in done) == [0, 0, 1]
    assert pl.read_parquet(tmp_path / "out/*.parquet")["user_id"].unique().to_list() == [0]


@pytest.mark.parametrize(
    ("change", "parts", "said"),
    [
        ({"model": "m2"}, 2, "with another model: found m2, allowed: m1"),
        ({"log": "l2"}, 2, "with another log: found l2, allowed: l1"),
        ({"k": 5}, 2, "with another --k: found 5, allowed: 4"),
        ({}, 3, r"with another number of parts \(--part\): found 3, allowed: 2"),
    ],
)
def test_parts_of_other_lists_are_refused(
    change: dict[str, Any], parts: int, said: str, encoder: Encoder, tmp_path: Path
):
    log = write_log(tmp_path / "log.parquet")
    score(encoder, log, tmp_path / "out", Part(1, 2))
    with pytest.raises(StageError, match=rf"^--out: .*{said}.*\(rm -r .*out\)$"):
        score(encoder, log, tmp_path / "out", Part(2, parts), JOB | change)


def test_a_folder_of_other_files_is_refused(encoder: Encoder, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("")
    log = write_log(tmp_path / "log.parquet")
    with pytest.raises(StageError, match=r"^--out: found .*out with other files \(notes.txt\), allowed: a new folder"):
        score(encoder, log, tmp_path / "out", Part(1, 1))
    (tmp_path / "out/notes.txt").unlink()
    assert score(encoder, log, tmp_path / "out", Part(1, 1)).rows
    next((tmp_path / "out").glob("*.parquet")).write_text("damaged")
    with pytest.raises(StageError, match=r"chunk-00001-of-00001.parquet is damaged .*remove it and run this again"):
        score(encoder, log, tmp_path / "out", Part(1, 1))


def test_more_chunks_than_files_that_can_be_open_are_refused(encoder: Encoder, tmp_path: Path):
    log = write_log(tmp_path / "log.parquet")
    with pytest.raises(StageError, match=r"^--part: found 300 chunks in part 1 of 1, allowed: 256; take more parts or"):
        score(encoder, log, tmp_path / "out", Part(1, 1), chunk_events=1)
    assert not list((tmp_path / "out").iterdir())


def resident_mb() -> float:
    """Resident memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_between_what_is_kept_is_given_back():
    tensors = [torch.ones(20_000) for _ in range(2_000)]  # 160 MB in pieces that glibc takes from its heap
    kept = tensors[::100]
    del tensors
    before = resident_mb()
    give_back_memory()
    assert resident_mb() < before - 100
    assert all(float(tensor[0]) == 1.0 for tensor in kept)
