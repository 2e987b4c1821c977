"""The life of a clone: wrong settings, the demo, reruns, a killed training, and the commands of README and docs.

The tests run in their order, in one clone, and build on each other. Commands stand in ``bash`` blocks. Those in blocks
marked ``sh`` are not run here: repetitions, logs that are not there, Docker's commands, which need an engine, and the
CPU build of PyTorch, which needs PyTorch's own package index.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from cutrec.config import load
from cutrec.config_point import as_written
from cutrec.nested import as_yaml
from cutrec.workflow.checkpoints import COMPLETE
from tests.docs.pages import commands
from tests.e2e.conftest import ROOT, Clone, small_log, write_visits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["source", "download", "split", "train", "evaluate", "report"]
LONGER = {"max_epochs: 2": "max_epochs: 8", "patience: auto": "patience: 30", "batch_size: 32": "batch_size: 4"}
TIMES = (
    "epoch_seconds",
    "whole_epoch_seconds",
    "waited_share",
    "tokens_per_second",
    "peak_memory_gib",
    "loop_peak_memory_gib",
)
GRID = (
    "uv run python -m pipelines.grid --table 3 --dataset beauty --scale 0.001 "
    "-S backbone.hidden=8 -S train.max_epochs=1 -S evaluate.k=[5,10]"
)
STORY = (
    "README.md",
    "docs/quickstart.md",
    "docs/own-log.md",
    "docs/experiments-of-your-own.md",
    "docs/experiments.md",
    "docs/results.md",
)
POINT = "sasrec-cce-twin_beauty_0.001-1024x32-hidden_8-max_epochs_1-k_5_10"


def ran(printed: str) -> list[str]:
    """The stages that ran, in order."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage ")]


def page_commands() -> list[str]:
    """What a reader types, from the README on."""
    return [command for page in STORY for command in commands(ROOT / page, "bash")]


def one_error(printed: str) -> str:
    """The one line that says what is wrong."""
    assert "Traceback" not in printed
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    return error


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("loss=cross_entropy", "error: loss: found 'cross_entropy', allowed: ce | ce_neg"),
        ("dataset=/no/such/file.parquet", "/no/such/file.parquet"),
    ],
)
def test_a_wrong_setting_is_one_line_through_dvc_too(clone: Clone, override: str, says: str):
    assert says in one_error(clone.run(f"uv run dvc exp run -S {override}", fails=True))
    assert not list(clone.data.glob("*/*.parquet"))
    clone.restore()


def test_the_demo_beats_popularity_within_three_minutes(clone: Clone):
    """The first command of the README, with the settings as shipped, from nothing."""
    (clone.root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    started = time.monotonic()
    printed = clone.run("env --unset=OMP_NUM_THREADS uv run dvc repro")
    seconds = time.monotonic() - started
    clone.run(re.search(r"^Next: (uv run cutrec recommend --user .+)$", printed, re.MULTILINE)[1])
    metrics = json.loads((clone.data / "evaluate/metrics.json").read_text())
    assert metrics["ndcg@10"] >= 3 * metrics["popularity"]["ndcg@10"]
    assert metrics["popularity"]["ndcg@10"] > 0
    assert seconds < 180
    clone.restore()


def test_outputs_are_what_others_rely_on(clone: Clone):
    clone.edit("params.yaml", LONGER)
    assert ran(clone.run("uv run dvc repro")) == STAGES
    data = clone.data

    train = pl.read_parquet(data / "split" / "train.parquet")
    assert dict(train.schema) == {
        "user_id": pl.Int32,
        "history": pl.List(pl.Int32),
        "timestamps": pl.List(pl.Int64),
    }
    for part in ("validation", "test"):
        assert pl.read_parquet(data / "split" / f"{part}.parquet").schema["target"] == pl.Int32
    items = pl.read_parquet(data / "split" / "items.parquet")
    assert pl.read_parquet(data / "train" / "items.parquet").equals(items)
    assert items["item_id"].to_list() == list(range(len(items)))
    assert {"original_id", "count"} <= set(items.columns)
    assert set(pl.read_parquet(data / "split" / "users.parquet").columns) == {"user_id", "original_id"}

    training = json.loads((data / "train" / "metrics.json").read_text())
    assert {"train_loss", "best_epoch", "epoch_seconds", "peak_memory_gib", "tokens_per_second", "device"} <= set(
        training
    )
    assert list((data / "train" / "tensorboard").rglob("events.*"))

    metrics = json.loads((data / "evaluate" / "metrics.json").read_text())
    names = ("ndcg", "recall", "hitrate", "precision", "map", "mrr", "coverage", "surprisal")
    for name in names:
        assert 0 <= metrics[f"{name}@10"] <= 1
        assert 0 <= metrics["popularity"][f"{name}@10"] <= 1
    table = pl.read_csv(data / "evaluate" / "metrics_at_k.csv")
    assert table["k"].to_list() == [1, 5, 10, 20, 100]
    assert {*names, *(f"popularity_{name}" for name in names)} <= set(table.columns)
    assert list((data / "evaluate" / "tensorboard").rglob("events.*"))

    log = small_log()
    recommended = pl.read_parquet(data / "evaluate" / "recommendations.parquet")
    assert recommended.columns == ["user_id", "item_id", "rank", "score"]
    assert set(recommended["user_id"]) <= set(log["user_id"])
    assert set(recommended["item_id"]) <= set(log["item_id"])
    ranks = recommended.group_by("user_id", maintain_order=True).agg("rank", "score")
    for rank, score in zip(ranks["rank"], ranks["score"], strict=True):
        assert rank.to_list() == list(range(1, len(rank) + 1))
        assert score.to_list() == sorted(score, reverse=True)
    seen = recommended.join(log, on=["user_id", "item_id"]).group_by("user_id").len()
    assert seen.is_empty() or seen["len"].max() == 1  # only the target may be there: it is not part of the history

    assert (data / "report" / "report.html").read_text().count("data:image/png;base64,") == 11
    assert {path.suffix for path in (data / "report").iterdir()} == {".csv", ".html", ".md", ".png"}


def test_nothing_reruns_for_a_text_that_no_stage_reads(clone: Clone):
    with (clone.root / "README.md").open("a") as readme:
        readme.write("\nA new sentence.\n")
    assert ran(clone.run("uv run dvc repro")) == ["source"]


def test_an_edit_of_library_code_reruns_training_which_resumes_after_a_kill(clone: Clone):
    """And ends as the training before, which nobody killed."""
    whole = outcome(clone)
    with (clone.root / "packages/rec-eval/src/rec_eval/__init__.py").open("a") as code:
        code.write("\n# a change of library code\n")
    process = clone.start("exec uv run dvc repro", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        os.kill(wait_for_checkpoint(clone), signal.SIGKILL)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert ran(printed) == ["source", "train"]
    finally:
        process.kill()
    assert interrupted(clone)
    printed = clone.run("uv run dvc repro")
    assert ran(printed)[:3] == ["source", "train", "evaluate"]
    assert "resuming" in printed, printed
    resumed = outcome(clone)
    assert resumed[0] == whole[0]
    assert resumed[1] == whole[1]
    assert resumed[2].equals(whole[2])
    assert not interrupted(clone)
    clone.restore()


def test_a_downloaded_archive_runs_without_git(clone: Clone):
    """`git archive` makes what GitHub serves as a zip. There are no experiments in it, but the pipeline runs."""
    archive = clone.root.with_name("archive")
    archive.mkdir()
    clone.run(f"git archive HEAD | tar -x -C {archive}")
    environment = f"cd {archive} && export UV_NO_SYNC=1 UV_PROJECT_ENVIRONMENT={clone.root}/.venv"
    assert ran(clone.run(f"{environment} && uv run dvc repro split")) == STAGES[:3]
    assert "git has no committed version" in one_error(clone.run(f"{environment} && uv run cutrec reset", fails=True))


def outcome(clone: Clone) -> tuple[dict, dict, pl.DataFrame]:
    """Everything a run ends with, except for times and memory."""
    training = json.loads((clone.data / "train/metrics.json").read_text())
    evaluation = json.loads((clone.data / "evaluate/metrics.json").read_text())
    history = pl.read_csv(clone.data / "train/history.csv")
    return (
        {key: value for key, value in training.items() if key not in TIMES},
        {key: value for key, value in evaluation.items() if not key.endswith(("seconds", "second"))},
        history.select(pl.exclude("^.*(seconds|per_second)$")),
    )


def interrupted(clone: Clone) -> list[Path]:
    """The checkpoints of trainings that are not complete."""
    states = (clone.root / ".checkpoints").rglob("last.ckpt")
    return [path for path in states if not (path.parent / COMPLETE).exists()]


def wait_for_checkpoint(clone: Clone, seconds: float = 300) -> int:
    """Wait until training has kept a state; return the process id of the training."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if interrupted(clone):
            found = subprocess.run(  # Python itself: if only the shell that runs it ended, training would live on
                ["pgrep", "-f", "^[^ ]*python[^ ]* -m pipelines.train$"], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split():
                if os.path.realpath(f"/proc/{pid}/cwd") == str(clone.root.resolve()):
                    return int(pid)
        time.sleep(0.02)
    raise AssertionError("training kept no state")


def test_the_readme_has_the_commands_that_ci_runs():
    assert page_commands()[:2] == [
        "pip install uv && uv run --no-dev dvc repro",
        "pip install uv && uv run pytest",
    ]
    assert "uv run pytest" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", [c for c in page_commands() if not c.startswith("pip install uv")])
def test_a_command_of_a_page(clone: Clone, logs: Path, command: str):
    """In the order of the pages; some are the occasion to look at what a user relies on there."""
    here = command.replace("/data/", f"{logs}/").replace("loss=ce,ce_neg,", "loss=")  # DVC knows these two already
    (check,) = [check for words, check in CHECKS.items() if words in command] or [None]
    if check is None:
        clone.run(here)
    else:
        check(clone, here)


def replaced_log(clone: Clone, command: str) -> None:
    """A log that is replaced at the same path is read again."""
    clone.run(command)
    summary = clone.data / "split" / "summary.json"
    assert json.loads(summary.read_text())["log"]["users"] == 80
    write_visits(Path(re.search(r"dataset=(\S+)", command)[1]), small_log(users=90, seed=1))
    assert ran(clone.run("uv run dvc repro split")) == ["source", "download", "split"]
    assert json.loads(summary.read_text())["log"]["users"] == 90


def metrics_diff(clone: Clone, command: str) -> None:
    printed = clone.run(command)
    assert re.search(r"data/evaluate/metrics.json +\w+@10 +[\d.]+ +[\d.]+ +-?[\d.]+", printed), printed


def plots(clone: Clone, command: str) -> None:
    page = Path(re.search(r"file://(\S+)", clone.run(command))[1]).read_text()
    assert "Validation NDCG@10" in page


def queue(clone: Clone, command: str) -> None:
    """The queue takes a point of the paper's tables once, and runs the code as it was when it was queued."""
    assert "1 points: 1 to queue" in clone.run(f"{GRID} --dry-run")
    assert f"queued       {POINT}" in clone.run(GRID)
    assert f"{POINT}: queued, commit" in clone.run(GRID)
    edited = [
        clone.root / f"packages/{name}/__init__.py" for name in ("rec-data/src/rec_data", "rec-eval/src/rec_eval")
    ]
    edited += [clone.root / "packages/rec-models/src/rec_models/__init__.py", clone.root / "pipelines/train.py"]
    for path in edited:
        path.write_text("raise SystemExit('the live checkout leaked')\n")
    assert "leaked" in clone.run("uv run python -c 'import rec_data'", fails=True)  # the environment does see the edit

    # The worker, which inherits the streams, stays for ten seconds or more after its last task.
    assert clone.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait() == 0
    status = wait_for_queue(clone)
    clone.run("git checkout --quiet -- packages pipelines")
    log = clone.run(f"uv run dvc queue logs {POINT}")
    assert f"Next: uv run dvc exp apply {POINT}, which brings" in log, log
    assert status.count("Success") == 3, f"{status}\n{log}"
    assert ran(log) == STAGES, log
    assert "finished, commit" in clone.run(GRID)


def wait_for_queue(clone: Clone, seconds: float = 500) -> str:
    """Wait until no task is queued or running; return the last status.

    Asking DVC takes seconds of a core that the tasks need: it is asked when `POINT`, the last one, has ended, or once a
    minute.
    """
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        ask = time.monotonic() + 60
        while POINT not in clone.run("git for-each-ref refs/exps") and time.monotonic() < ask:
            time.sleep(0.5)
        status = clone.run("uv run dvc queue status")
        if "Queued" not in status and "Running" not in status:
            return status
    raise AssertionError(status)


def experiments(clone: Clone, command: str) -> None:
    printed = clone.run(command)
    assert all(name in printed for name in ("exact", "sampled", POINT[:20], "ndcg@10", "peak_memory_gib")), printed
    assert "grid" not in printed


def tables(clone: Clone, command: str) -> None:
    """The point that the queue ran is no row of the paper (its log is a small one), which is said."""
    printed = clone.run(command)
    assert "note: " in printed, printed
    assert (clone.root / "results/tables.md").is_file()


def pull(clone: Clone, command: str) -> None:
    """A remote gives everything back."""
    before = (clone.data / "split/summary.json").read_text()
    for path in ("download", "split", "train/model.safetensors", "train/tensorboard"):
        target = clone.data / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.rmtree(clone.root / ".dvc" / "cache")
    clone.run(command)
    assert (clone.data / "split/summary.json").read_text() == before
    assert (clone.data / "train/model.safetensors").stat().st_size > 0
    assert ran(clone.run("uv run dvc repro")) == ["source"]


def forget(clone: Clone, command: str) -> None:
    """Users are gone from the outputs; `dvc repro` alone brings them back, as the README says."""
    log = clone.data / "download" / "log.parquet"
    before = pl.read_parquet(log)
    first, second = before["user_id"].unique().sort()[:2]
    clone.run(command.replace("4711", str(first)).replace("4712", str(second)))
    assert pl.read_parquet(log).equals(before.filter(~pl.col("user_id").is_in([first, second])))
    clone.run("uv run python -m pipelines.evaluate && uv run python -m pipelines.report && uv run dvc repro")
    assert pl.read_parquet(log).equals(before)


def serve(clone: Clone, command: str) -> None:
    """TensorBoard answers and knows the runs; on a free port, since 6006 may be taken."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = clone.start(f"exec {command} --port {port}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 90
        while time.monotonic() < give_up:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=5) as answer:
                    runs = answer.read().decode()
            except OSError:
                runs = ""
            if "train" in runs and "evaluate" in runs:
                return
            time.sleep(1)
        raise AssertionError(f"TensorBoard does not serve the runs: {runs!r}")
    finally:
        process.kill()
        process.wait()


CHECKS: dict[str, Callable[[Clone, str], None]] = {
    "visits.csv": replaced_log,
    "metrics diff": metrics_diff,
    "plots": plots,
    "queue start": queue,
    "exp show": experiments,
    "paper.tables": tables,
    "dvc pull": pull,
    "cutrec forget": forget,
    "tensorboard": serve,
}
"""What is checked at a command that holds these words."""


def test_a_busy_repository_is_one_line(clone: Clone):
    hold = "from dvc.repo import Repo\nwith Repo() as repo, repo.lock:\n print('held', flush=True); input()"
    (clone.root / "hold.py").write_text(hold)
    process = clone.start("exec uv run python hold.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        printed = clone.run(f"{GRID} -S seed=5", fails=True)
    finally:
        process.communicate("\n")
        (clone.root / "hold.py").unlink()
    assert "another command of DVC is at work here" in one_error(printed)


def test_every_flat_key_can_be_set_at_once(clone: Clone):
    settings = {
        "dataset": "twin:beauty@0.001", "model": "bert4rec", "loss": "bce_neg", "batch_size": "8", "max_seq_len": "6",
        "num_negatives": "5", "seed": "7", "paper_faithful": "true", "impl": "reference", "preset": "none",
        "row": "none", "row_data": "real", "split_folder": "data/split",
    }  # fmt: skip
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert {name for name, value in values.items() if not isinstance(value, dict)} == set(settings)
    clone.restore()
    given = " ".join(f"-S {key}={value}" for key, value in settings.items())
    assert ran(clone.run(f"uv run dvc exp run --name flat split {given}")) == STAGES[:3]
    written = as_written(load(clone.root / "params.yaml"))
    assert {key: as_yaml(written[key]) for key in settings} == settings
