"""Forgetting users: nothing below data/ names them, everything else stays, and a kill loses nothing."""

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.errors import StageError, UsageError
from cutrec.workflow import forget
from cutrec.workflow.forget import find_users, remove_users
from cutrec.workflow.user_copies import find_copies
from cutrec.workflow.user_ids import Users
from pipelines import download, evaluate, report, source, split, train
from rec_data.locks import locked
from rec_data.sequences.store import SequenceStore
from rec_data.splits.split import split_log
from rec_eval import read_evaluation
from tests.small_log import decoded, naming, small_log, write_params
from tests.split_parts import divide

SETTINGS = {"dataset": "events.csv", "max_seq_len": 8, "backbone.hidden": 8, "loss": "cce", "train.max_epochs": 1}
SETTINGS |= {"split.strategy": "leave_one_out"}  # everybody is tested


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after all stages and two calls of recommend; users are called ``user <number>!``."""
    folder = tmp_path_factory.mktemp("run")
    small_log().with_columns(pl.format("user {}!", "user_id").alias("user_id")).write_csv(folder / "events.csv")
    write_params(folder, SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (source, download, split, train, evaluate, report):
            stage.main(config.load())
        for name in ("top.parquet", "top.csv"):
            execute(["recommend", "--k", "3", "--out", f"data/recommend/{name}"])
    return folder


@pytest.fixture
def checkout(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    monkeypatch.chdir(shutil.copytree(run_once, tmp_path / "checkout"))
    return Path("data")


def shown_users() -> list[str]:
    return [example["user"] for example in json.loads(Path("data/evaluate/details/examples.json").read_text())]


def lists_of(path: Path) -> pl.DataFrame:
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)


def test_nothing_below_data_names_them_and_metrics_are_those_of_the_others(checkout, capsys):
    gone = shown_users()[:2]
    others = ~pl.col("user_id").is_in(gone)
    paths = [checkout / name for name in ("evaluate/recommendations.parquet", "recommend/top.csv",
                                          "recommend/top.parquet", "download/log.parquet")]  # fmt: skip
    before = {path: lists_of(path) for path in paths}
    run = read_evaluation(checkout / "evaluate/per_user.parquet")
    catalogue = pl.read_parquet(checkout / "split/items.parquet")
    assert len(naming(checkout, gone[0])) == 8  # log, users, lists x3, per_user, examples, report
    execute(["forget", "--user", gone[0], "--user", gone[1], "--user", "nobody"])
    printed = capsys.readouterr()
    assert printed.err == "note: unknown users are skipped: 1: 'nobody'\n"
    assert not any(user in printed.out for user in gone)
    assert [naming(checkout, user) for user in gone] == [[], []]
    for path, lists in before.items():
        assert lists_of(path).equals(lists.filter(others))
    assert not list(checkout.glob(".tmp*"))
    after = pl.read_parquet(checkout / "split/items.parquet")
    assert after["original_id"].equals(catalogue["original_id"])
    assert (after["count"] <= catalogue["count"]).all()

    keep = ~np.isin(run.user_ids, gone)
    for again in (False, True):  # what forget left, and what the stages make of the rewritten split
        if again:
            evaluate.main(config.load())
            report.main(config.load())
        found = read_evaluation(checkout / "evaluate/per_user.parquet")
        assert (found.num_users, found.user_ids.tolist()) == (int(keep.sum()), run.user_ids[keep].tolist())
        assert found.targets.tolist() == run.targets[keep].tolist()
        for name, values in run.per_user.items():
            if again and name.startswith(
                ("surprisal", "serendipity", "unexpectedness")
            ):  # relative to train, which lost events
                continue
            np.testing.assert_array_equal(found.per_user[name], values[keep], err_msg=name)
    metrics = json.loads((checkout / "evaluate/metrics.json").read_text())
    assert metrics["users"] == int(keep.sum())
    assert metrics["ndcg@10"] == pytest.approx(run.per_user["ndcg@10"][keep].mean(), abs=1e-6)
    assert [naming(checkout, user) for user in gone] == [[], []]


def test_the_copies_that_stay_are_named_with_what_removes_them(checkout, capsys):
    user = shown_users()[0]
    rows = pl.read_csv("events.csv").filter(pl.col("user_id") == user).height
    Path("data/recommend/top.refit").mkdir()
    Path("data/recommend/top.refit/model.safetensors").touch()
    for backtest in ("data/backtest", "data/weekly/shop"):
        Path(backtest, "2/evaluate").mkdir(parents=True)
        Path(backtest, "2/evaluate/.complete").touch()
        shutil.copy("data/evaluate/recommendations.parquet", Path(backtest, "2/evaluate"))
    Path("data/update/split").mkdir(parents=True)
    Path("data/update/split/train.parquet").touch()
    Path(".checkpoints/0123").mkdir(parents=True)
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    execute(["forget", "--user", user, "--dry-run"])
    assert before == {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    counted = capsys.readouterr().out
    assert f"data/download/log.parquet: {rows} rows\n" in counted
    execute(["forget", "--user", user])
    text = capsys.readouterr().out
    place = f"events.csv ({rows} rows)"
    assert "data/train/model.safetensors, data/recommend/top.refit/model.safetensors" in text
    assert "states of trainings: .checkpoints/ (0123, " in text
    assert f"- the source, which the next run reads again: {place}\n" in text
    assert "\n3. rm -r .checkpoints   # when no training runs\n" in text
    cures = [line.partition("   #")[0] for line in text.splitlines() if line[:1].isdigit()]
    assert cures == [f"1. remove their rows from {place}", "2. uv run dvc repro", "3. rm -r .checkpoints",
                     "4. rm -r data/recommend/top.refit", "5. rm -r data/backtest",
                     "6. rm -r data/update", "7. rm -r data/weekly/shop"]  # fmt: skip
    assert "- the splits, models and lists of cutrec backtest: data/weekly/shop/\n" in text
    assert "2/evaluate" not in text  # a rewritten list would no longer have its checksum
    assert "train.parquet" not in text
    assert counted.partition("Still there")[2] == text.partition("Still there")[2]
    user = shown_users()[0]
    kept = [line for line in Path("events.csv").read_text().splitlines() if not line.startswith(f"{user},")]
    Path("events.csv").write_text("\n".join(kept))
    execute(["forget", "--user", user])
    assert "- dataset 'events.csv' no longer holds them\n" in capsys.readouterr().out
    Path("events.csv").rename("moved.csv")
    execute(["forget", "--user", shown_users()[0]])
    assert "- dataset 'events.csv', which was not searched: dataset 'events.csv': no file" in capsys.readouterr().out


def test_the_copies_of_dvc_are_named(checkout, capsys):
    for arguments in (["init", "--no-scm", "--quiet"], ["remote", "add", "store", "elsewhere", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True)
    Path(".dvc/tmp/exps/tmp1").mkdir(parents=True)
    Path(".dvc/tmp/exps/tmp1/dvc.yaml").touch()
    execute(["forget", "--user", shown_users()[0]])
    text = capsys.readouterr().out
    assert f"these files: {Path.cwd() / '.dvc/cache'}\n" in text
    assert "- copies of queued experiments: .dvc/tmp/exps/tmp1\n" in text
    assert "- DVC's remote 'store', if anything was pushed\n" in text
    cures = [line.partition("   #")[0] for line in text.splitlines() if line[:1].isdigit()]
    assert cures[2:] == ["3. rm -r .checkpoints", "4. rm -r .dvc/tmp/exps/tmp1", "5. uv run dvc gc --workspace",
                         "6. uv run dvc gc --workspace --cloud --remote store"]  # fmt: skip


@pytest.mark.parametrize("dataset", ["demo", "ml_1m"])
def test_a_source_that_cannot_be_edited_is_kept_out_by_a_commit(checkout, dataset: str, capsys):
    user = shown_users()[0]
    write_params(Path(), SETTINGS | {"dataset": dataset})
    with pytest.raises(StageError, match=rf"^dataset: found '{dataset}', but .* is the log of 'events.csv', allowed: "):
        execute(["forget", "--user", user])
    summary = checkout / "download/summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"dataset": dataset}))
    write_checksums(summary.parent)
    execute(["forget", "--user", user])
    text = capsys.readouterr().out
    assert f"dataset {dataset!r}" in text
    again = " && ".join(f"uv run python -m pipelines.{stage}" for stage in ("train", "evaluate", "report"))
    assert f"1. {again}\n2. uv run dvc commit" in text


def state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_lists_anywhere_below_data_and_what_killed_writers_left_are_found(checkout, capsys):
    user = shown_users()[0]
    (checkout / "more").mkdir()
    for name, target in (
        ("recommend/top.csv", "lists.csv"), ("recommend/top.parquet", "more/top.parquet"),
        ("download", ".tmp-download"), ("evaluate", ".tmp-evaluate"), ("recommend/top.csv", "more/new.csv.part"),
    ):  # fmt: skip
        (shutil.copytree if (checkout / name).is_dir() else shutil.copy)(checkout / name, checkout / target)
    shutil.copy("events.csv", checkout / "mine.csv")
    (checkout / "more/damaged.parquet").write_bytes(b"PAR1")
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    execute(["forget", "--user", user, "--dry-run"])
    assert before == {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    assert "data/download: what a killed process has left beside it\n" in capsys.readouterr().out
    execute(["forget", "--user", user])
    searched = "data/mine.csv, data/more/damaged.parquet, data/more/new.csv.part"
    assert f"- files that were not searched: {searched}\n" in capsys.readouterr().out
    (checkout / "more/damaged.parquet").unlink()
    assert naming(checkout, user) == ["data/mine.csv", "data/more/new.csv.part"]
    assert not list(checkout.glob(".*"))


def test_the_steps_are_printed_again_for_users_who_are_forgotten(checkout, capsys):
    user = shown_users()[0]
    execute(["forget", "--user", user])
    steps = capsys.readouterr().out.partition("Still there")[2]
    before = state_of(checkout)
    execute(["forget", "--user", user])
    printed = capsys.readouterr()
    assert printed.out.partition("Still there")[2] == steps
    assert printed.err == f"note: unknown users are skipped, who may have been forgotten before: 1: {user!r}\n"
    assert state_of(checkout) == before


@pytest.mark.parametrize("part", ["whole", "log"])
def test_nobody_left_is_refused_before_anything_is_written(checkout, part: str):
    for name in ("split", "evaluate") if part == "log" else ():
        shutil.rmtree(checkout / name)
    pl.read_parquet(checkout / "download/log.parquet").select("user_id").unique().write_parquet("ids.parquet")
    before = state_of(checkout)
    with pytest.raises(ValueError, match=r"^data/\S+: found nobody else.*, allowed: at least one other user \("):
        execute(["forget", "--users", "ids.parquet"])
    assert {path: state for path, state in state_of(checkout).items() if path.is_file()} == {
        path: state for path, state in before.items() if path.is_file()
    }


def test_recommend_says_how_to_train_without_them(checkout, capsys):
    for again in (False, True):
        if again:
            execute(["forget", "--user", shown_users()[0]])
            capsys.readouterr()
        execute(["recommend", "--k", "3"])
        found = capsys.readouterr().err
        assert (
            found == ""
            if not again
            else found.endswith("users were forgotten since then, train again (uv run python -m pipelines.train)\n")
        )
    train.main(config.load())
    capsys.readouterr()
    execute(["recommend", "--k", "3"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("left", "stage", "reason"), [
    (1, evaluate, "found 1 user in train, allowed: at least 2"),
    ("validation", train, "found no validation users, allowed: at least 1"),
    ("test", evaluate, "found no test users, allowed: at least 1"),
])  # fmt: skip
def test_too_few_users_for_a_stage_are_named(left: object, stage: Any, reason: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    strategy = "leave_one_out" if left == 1 else "temporal"
    write_params(tmp_path, SETTINGS | {"split.strategy": strategy, "split.test_fraction": 0.2})
    small_log(users=60).write_csv("events.csv")
    for step in (source, download, split, train):
        step.main(config.load())
    users = pl.read_parquet("data/split/users.parquet")
    gone = users[1:] if left == 1 else users.join(pl.read_parquet(f"data/split/{left}.parquet"), on="user_id")
    gone.select(pl.col("original_id").alias("user_id")).write_csv("ids.csv")
    execute(["forget", "--users", "ids.csv"])
    name = stage.__name__.removeprefix("pipelines.")
    assert f"users left in {'train' if left == 1 else left}, too few for the stage {name}\n" in capsys.readouterr().out
    if stage is evaluate:
        train.main(config.load())
    with pytest.raises(StageError, match=f"^data/split: {reason}"):
        stage.main(config.load())


def test_unknown_users_write_nothing(checkout):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in checkout.rglob("*")}
    with pytest.raises(StageError, match=r"^found nobody with the id 'user 1', 'x' in the log") as caught:
        execute(["forget", "--user", "x", "--user", "user 1"])
    assert "\n" not in str(caught.value)
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in checkout.rglob("*")}


@pytest.mark.parametrize("name", ["evaluate/details/segments.csv", "split/test.parquet", "download/summary.json"])
def test_damaged_files_do_not_get_new_checksums(checkout, name: str):
    path = checkout / name
    before = (checkout / name.split("/")[0] / "SHA256SUMS").read_bytes()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StageError, match=r"do not fit each other: .* `dvc repro -f \w+` makes both$"):
        execute(["forget", "--user", "user 3!"])
    assert (checkout / name.split("/")[0] / "SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluate/per_user.parquet", b"PAR1"),
        ("evaluate/recommendations.parquet", b""),
        ("evaluate/details/examples.json", b"\xff\xfe"),
        ("evaluate/details/examples.json", b"[1]"),
        ("split/users.parquet", b"PAR1"),
        ("download/log.parquet", b"PAR1"),
        ("split/SHA256SUMS", b"x\n"),
    ],
)
def test_a_damaged_file_is_named_with_the_stage_that_writes_it(checkout, name: str, content: bytes, listed: bool):
    path, stage_name = checkout / name, name.split("/")[0]
    path.write_bytes(content)
    if not listed and path.name != "SHA256SUMS":
        (checkout / stage_name / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=rf"^data/{name}\b.*; `dvc repro -f {stage_name}` makes (it again|both)$"):
        execute(["forget", "--user", "user 3!"])


def test_a_list_that_cannot_be_searched_is_named_and_stops_nobody(checkout, capsys):
    user = shown_users()[0]
    lists = pl.DataFrame({"user_id": [3.0], "item_id": [1], "rank": [1], "score": [0.5]})
    lists.write_parquet(checkout / "recommend/floats.parquet")
    execute(["forget", "--user", user])
    path = "data/recommend/floats.parquet"
    assert f"remove their rows from these files, or delete the files: {path}\n" in capsys.readouterr().out
    assert naming(checkout, user) == []
    whole = Path("data/recommend/top.parquet").read_bytes()
    Path("data/recommend/top.parquet").write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(
        ValueError, match=r"^data/recommend/top.parquet cannot be read: .*; delete it, or write it again"
    ):
        execute(["forget", "--user", user])


def test_somebody_must_be_named(checkout):
    with pytest.raises(UsageError, match="found no user, allowed: --user ID, or --users FILE"):
        execute(["forget"])


def test_a_file_of_ids_may_be_written_in_another_way_than_the_log(checkout, capsys):
    user = shown_users()[0]
    Path("ids.txt").write_bytes(f"{user}\né\n".encode("latin-1"))
    execute(["forget", "--users", "ids.txt", "-S", "download.format.encoding=latin-1"])
    assert capsys.readouterr().err == "note: unknown users are skipped: 1: 'é'\n"
    assert naming(checkout, user) == []
    with pytest.raises(UsageError, match=r"^-S: .* --users .* not given"):
        execute(["forget", "--user", user, "-S", "download.format.encoding=latin-1"])


def test_a_call_waits_for_another_one(checkout):
    user = shown_users()[0]
    call = threading.Thread(target=execute, args=(["forget", "--user", user],))
    with locked(checkout / "forget"):
        before = state_of(checkout / "split")
        call.start()
        call.join(1.0)
        assert call.is_alive()
        assert state_of(checkout / "split") == before
    call.join()
    assert naming(checkout, user) == []


@pytest.mark.parametrize("name", ["recommend/late.parquet", "recommend/late.csv", "split", "evaluate", "report"])
def test_what_is_written_of_the_old_log_meanwhile_is_found_too(checkout, name: str, monkeypatch, capsys):
    user = shown_users()[0]
    late = checkout / name
    old = Path("old") / (f"recommend/top{late.suffix}" if late.suffix else name)
    shutil.copytree(checkout, "old")
    remove = forget._remove_evaluated

    def write(*arguments: Any) -> None:
        monkeypatch.setattr(forget, "_remove_evaluated", remove)
        remove(*arguments)
        shutil.rmtree(late, ignore_errors=True)
        (shutil.copytree if old.is_dir() else shutil.copy)(old, late)

    monkeypatch.setattr(forget, "_remove_evaluated", write)
    execute(["forget", "--user", user])
    assert naming(checkout, user) == []
    assert late.exists()
    monkeypatch.setattr(forget, "find_users", lambda *_: {checkout / "download/log.parquet": Counter([user])})
    with pytest.raises(StageError, match=r"^data/\S+: found that other processes write the users again, allowed: "):
        remove_users(Users([user]), {}, checkout)


LARGE = 7_100_000_000_000_000_000
IDS: dict[str, tuple[Callable[[int], Any], Any]] = {
    "int64": (lambda user: LARGE + user, pl.Int64),
    "negative": (lambda user: -user, pl.Int32),
    "uint64": (lambda user: 2**63 + user, pl.UInt64),
    "text": (lambda user: {3: "null", 4: "1e3"}.get(user, f"0{user}"), pl.String),
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("form", ["option", "txt", "csv", "parquet"])
def test_ids_are_compared_exactly(kind: str, form: str, tmp_path, monkeypatch, capsys):
    name, dtype = IDS[kind]
    write_params(tmp_path, {"dataset": "demo"})
    monkeypatch.chdir(tmp_path)
    for folder in ("download", "split"):
        Path("data", folder).mkdir(parents=True)
    log = small_log(users=60)
    log = log.with_columns(pl.Series("user_id", [name(user) for user in log["user_id"]], dtype))
    log.write_parquet("data/download/log.parquet")
    split_log(Path("data/download/log.parquet"), Path("data/split"))
    users = pl.read_parquet("data/split/users.parquet")["original_id"]
    asked, strangers = [name(3), name(4)], ["03", f"{name(5)}.0", f" {name(6)}_", 2**70]
    if form == "option":
        execute(["forget", *(f"--user={each}" for each in (*asked, *strangers))])
        assert "unknown users are skipped: 4:" in capsys.readouterr().err
    else:
        frame = pl.DataFrame({"shop": [1, 1], "user_id": pl.Series(asked, dtype=dtype)})
        if form == "txt":
            Path("ids.txt").write_text("user_id\r\n" + "\r\n".join(map(str, asked)) + "\r\n\r\n")
        elif form == "csv":
            frame.write_csv("ids.csv")
        else:
            frame.write_parquet("ids.parquet")
        execute(["forget", "--users", f"ids.{form}"])
    assert pl.read_parquet("data/download/log.parquet").equals(log.filter(~pl.col("user_id").is_in(asked)))
    left = pl.read_parquet("data/split/users.parquet")["original_id"]
    assert left.equals(users.filter(~users.is_in(asked)))
    assert len(left) < len(users)


@pytest.mark.parametrize("form", ["text", "decimal"])
def test_the_source_is_searched_for_ids_as_the_log_reads_them(form: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pl.DataFrame({"user_id": ["105.0", "7.0", "105.0"], "item_id": [1, 2, 3], "timestamp": [1, 2, 3]})
    if form == "text":
        rows.write_csv("log.csv")
    else:
        rows.with_columns(pl.col("user_id").cast(pl.Decimal(12, 2))).write_parquet("log.parquet")
    (name,) = [path.name for path in tmp_path.iterdir()]
    copies = find_copies(config.from_mapping({"dataset": name}), Users(["105"]), Path())
    assert f"{name} (2 rows)" in "\n".join(copies.where)


def test_other_lines_of_a_csv_stay_byte_by_byte(tmp_path):
    (folder := tmp_path / "recommend").mkdir()
    lines = ['"user_id","item_id","rank","score"\n', '"a","x",1,0.50\n', '"b\n""c""","x",1,1\n', 'a,"y\nz",2,0\n']
    (folder / "top.csv").write_text("".join(lines))
    users = Users(["a"])
    found = find_users(users, tmp_path)
    assert {path.name: counts for path, counts in found.items()} == {"top.csv": {"a": 2}}
    remove_users(users, found, tmp_path)
    assert (folder / "top.csv").read_text() == lines[0] + lines[2]


def test_ids_of_a_list_that_a_tool_wrote_as_floats_are_found(tmp_path):
    (folder := tmp_path / "recommend").mkdir()
    lines = [
        "user_id,item_id,rank,score\n",
        "3.0,1,1,0.5\n",
        "13.0,1,1,0.5\n",
        " 3,2,2,0.4\n",
        '"3.00",1,3,0\n',
        "3.5,1,1,0\n",
    ]
    (folder / "top.csv").write_text("".join(lines))
    found = find_users(users := Users(["3"]), tmp_path)
    assert found[folder / "top.csv"].total() == 3
    remove_users(users, found, tmp_path)
    assert (folder / "top.csv").read_text() == "".join(lines[place] for place in (0, 2, 5))


class Killed(BaseException):
    """Stands for SIGKILL: nothing on the disk changes any more."""


@pytest.fixture
def kill() -> Callable[[int], Any]:
    """After ``kill(n)`` the n-th change of a name is the last one that succeeds."""

    def arm(left: int) -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()
        state = {"left": left}

        def guarded(change: Callable[..., Any]) -> Callable[..., Any]:
            def call(*values: Any, **options: Any) -> Any:
                if state["left"] <= 0:
                    raise Killed
                state["left"] -= 1
                return change(*values, **options)

            return call

        for place, name in ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(place, name, guarded(getattr(place, name)))
        return patch

    return arm


@pytest.mark.slow
def test_a_kill_leaves_either_state_and_the_same_call_does_the_rest(run_once, tmp_path, kill):
    data = Path(shutil.copytree(run_once, tmp_path / "whole")) / "data"
    shown = [each["user"] for each in json.loads((data / "evaluate/details/examples.json").read_text())]
    users = Users(shown[:1])

    def contents(folder: Path) -> dict[str, str]:
        """Of the files, without the lock files of killed processes."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
        return {str(path.relative_to(folder)): decoded(path) for path in paths}

    parts = ("download", "split", "evaluate", "recommend")
    old = {part: contents(data / part) for part in parts}
    remove_users(users, find_users(users, data), data)
    new = {part: contents(data / part) for part in parts}
    for changes in range(100):
        data = Path(shutil.copytree(run_once, tmp_path / str(changes))) / "data"
        found = find_users(users, data)
        patch = kill(changes)
        try:
            remove_users(users, found, data)
            break
        except Killed:
            pass
        finally:
            patch.undo()
        gc.collect()  # as the system does with a killed process, it releases the locks
        assert all((data / part).is_dir() or (data / f".tmp-{part}/.old").is_dir() for part in parts)
        found = find_users(users, data)
        for part in ("download", "split", "evaluate"):
            assert contents(data / part) in (old[part], new[part])
        for path in (data / "recommend").iterdir():
            if path.suffix not in (".part", ".lock"):
                assert decoded(path) in (old["recommend"][path.name], new["recommend"][path.name])
        remove_users(users, found, data)
        for part in parts:
            assert contents(data / part) == new[part]
        assert not naming(data, shown[0])
    assert changes > 8
    SequenceStore.open(data / "split/sequences/train.arrow")


def test_a_split_in_parts_is_refused_before_anything_is_written(checkout):
    gone = shown_users()[0]
    divide(checkout / "split", 2)
    before = naming(checkout, gone)
    cure = r"data/split: found a split in 2 parts, allowed: 1 here; remove it \(rm -r data/split\), run this again"
    with pytest.raises(StageError, match=cure):
        execute(["forget", "--user", gone])
    assert naming(checkout, gone) == before
    shutil.rmtree(checkout / "split")
    execute(["forget", "--user", gone])
    assert naming(checkout, gone) == []
