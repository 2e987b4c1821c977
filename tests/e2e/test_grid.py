"""A table's points from the queue to results, every flat key set at once, and a remote that gives all back."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Clone
from tests.e2e.test_experiments import ran, wait_for_queue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GRID = (
    "uv run python -m pipelines.paper.grid --table 1 --table 3 --dataset beauty --scale 0.001 "
    "-S backbone.hidden=8 -S train.max_epochs=1 -S evaluate.k=[5,10]"
)
NAMES = [f"sasrec-{loss}-twin_beauty_0.001-1024x32-hidden_8-max_epochs_1-k_5_10" for loss in ("ce", "cce")]
READ = """
from pipelines.paper import experiments
with experiments.repository() as repo:
    found = [e for e in experiments.list_experiments(repo) if e.name.startswith("sasrec-")]
rows, remarks = experiments.results_of(found)
print([(r.kind, r.loss, r.twin, r.hidden, r.epoch_seconds > 0) for r in sorted(rows, key=lambda r: r.loss)], remarks)
"""


def test_a_tables_points_go_through_the_queue_once(clone: Clone):
    (clone.root / "dvc.lock").write_text("schema: '2.0'\n")  # as `dvc repro` leaves it: a dirty tree is no hindrance
    assert "2 points: 2 to queue" in clone.run(f"{GRID} --dry-run")
    printed = clone.run(GRID)
    assert [f"queued       {name}" in printed for name in NAMES] == [True, True]
    printed = clone.run(GRID)
    assert printed.count("passed over") == 3  # two lines and the sum
    assert all(f"{name}: queued, commit" in printed for name in NAMES)

    clone.run("uv run dvc queue start")
    wait_for_queue(clone)
    logs = [clone.run(f"uv run dvc queue logs {name}") for name in NAMES]
    # Whichever ran second has the data from the cache of runs: only training and what follows differs.
    assert sorted("Stage 'split' is cached" in log for log in logs) == [False, True], "\n".join(logs)

    (clone.root / "read.py").write_text(READ)
    printed = clone.run("PYTHONPATH=. uv run python read.py")
    assert "[('training', 'cce', 0.001, 8, True), ('training', 'ce', 0.001, 8, True)] []" in printed
    assert "finished, commit" in clone.run(GRID)


def test_a_busy_repository_is_one_line(clone: Clone):
    (clone.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    hold = "from dvc.repo import Repo\nwith Repo() as repo, repo.lock:\n print('held', flush=True); input()"
    (clone.root / "hold.py").write_text(hold)
    process = clone.start("exec uv run python hold.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        printed = clone.run(f"{GRID} -S seed=5", fails=True)
    finally:
        process.communicate("\n")
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "another command of DVC is at work here" in error
    assert "Traceback" not in printed


def test_every_flat_key_and_a_remote_that_gives_all_back(clone: Clone, tmp_path: Path):
    settings = {
        "dataset": "twin:beauty@0.001", "model": "bert4rec", "loss": "bce_neg", "batch_size": "8", "max_seq_len": "6",
        "num_negatives": "5", "seed": "7", "paper_faithful": "true", "impl": "reference", "preset": "none",
    }  # fmt: skip
    from cutrec.config import Params

    flat = {name for name, value in vars(Params()).items() if not hasattr(value, "__dataclass_fields__")}
    assert flat == set(settings)
    clone.run("uv run dvc exp run --name flat " + " ".join(f"-S {key}={value}" for key, value in settings.items()))
    report = (clone.root / "data/report/report.html").read_text()
    assert all(value in report for value in settings.values())

    before = (clone.root / "data/split/summary.json").read_text()
    clone.run(f"uv run dvc remote add --default shared {tmp_path / 'remote'} && uv run dvc push")
    for path in ("download", "split", "train/model.ckpt", "train/tensorboard"):
        target = clone.root / "data" / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.move(clone.root / ".dvc" / "cache", tmp_path / "set-aside")
    try:
        clone.run("uv run dvc pull")
        assert (clone.root / "data/split/summary.json").read_text() == before
        assert (clone.root / "data/train/model.ckpt").stat().st_size > 0
        again = clone.run("uv run dvc repro")
        assert ran(again) == ["source"]
    finally:
        shutil.copytree(tmp_path / "set-aside", clone.root / ".dvc" / "cache", dirs_exist_ok=True)
