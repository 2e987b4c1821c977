"""Two runs by name: what is printed, and one line for each thing that can be wrong."""

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutrec.cli import execute
from cutrec.console import run_and_exit
from rec_eval import Evaluation, LogCounts, evaluate, write_evaluation

USERS = 40


def run(
    rank: int, *, users: int = USERS, first_id: int = 0, ks: tuple[int, ...] = (1, 10), names: list[str] | None = None
) -> Evaluation:
    """The first half of the users has the target at rank 1, the others at this rank."""
    lists = np.tile(np.arange(12), (users, 1))
    targets = np.where(np.arange(users) < users // 2, 0, rank - 1)
    reference = LogCounts(np.full(12, 2), 4)
    return evaluate(lists, targets, ks, reference, user_ids=np.arange(users) + first_id, targets=names)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a run as the outputs of a checkout, in a folder of its own; return the folder's name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, evaluation: Evaluation) -> str:
        path = tmp_path / name / "data" / "evaluate" / "per_user.parquet"
        path.parent.mkdir(parents=True)
        write_evaluation(evaluation, path)
        return name

    return write


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command; return the only line that it prints."""
    with pytest.raises(SystemExit) as caught:
        run_and_exit(lambda: execute(["compare", *arguments]))
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_metrics_intervals_and_one_sentence(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    arguments = [save("a", run(2)), save("b", run(4)), "--resamples", "1000", "--out", str(tmp_path / "table.csv")]
    execute(["compare", *arguments])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:10]]
    cells = {row[0]: row for row in rows}
    assert cells["metric"] == ["metric", "a", "b", "difference", "95% interval", "p"]
    assert cells["mrr@10"][1:4] == ["0.7500", "0.6250", "-0.1250"]  # b less a, as `dvc metrics diff` has it
    assert cells["mrr@10"][5] == "0.0005"
    assert cells["recall@10"][4] == "too few users"  # none differs
    assert cells["recall@10"][1:4] == ["1.0000", "1.0000", "+0.0000"]
    assert cells["coverage@10"] == ["coverage@10", "0.8333", "0.8333", "+0.0000", "", ""]  # no interval
    assert lines[-1].startswith("a has ndcg@10 0.8155, b 0.7153: b is worse by 0.1001 (-12.3%), 95% interval -0.1")
    assert lines[-1].endswith("permutation test over 40 users.")
    with (tmp_path / "table.csv").open() as file:
        table = {row["metric"]: row for row in csv.DictReader(file)}
    assert float(table["mrr@10"]["difference"]) == -0.125


def test_the_sentence_may_be_of_another_metric(save: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    options = ["--metric", "hitrate@1", "--k", "1", "--resamples", "100"]
    execute(["compare", save("a", run(2)), save("b", run(4)), *options])
    assert "they cannot be told apart: from a to b +0.0000" in capsys.readouterr().out.splitlines()[-1]


def test_the_workspace_and_the_folder_itself_are_runs_too(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save("a", run(2))
    save("b", run(4))
    monkeypatch.chdir(tmp_path / "a")
    execute(["compare", "workspace", "../b/data/evaluate", "--resamples", "100"])
    assert "../b/data/evaluate is worse by 0.1001" in capsys.readouterr().out


def test_what_can_be_wrong_is_one_line(save: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    a = save("a", run(2))
    assert failing(capsys, a, save("more", run(2, users=41))) == (
        "error: a and more: found different test users (40 and 41), allowed: two runs over one data set and one split"
    )
    assert "found different test users (40 and 40)" in failing(capsys, a, save("other", run(2, first_id=1)))
    assert "--k: found 20, allowed: 1, 10" in failing(capsys, a, a, "--k", "20")
    assert "--k: found 10, allowed: 1" in failing(capsys, a, save("short", run(2, ks=(1,))))
    assert "--metric: found 'ndgc@10', allowed: METRIC@K with a metric of ndcg" in failing(
        capsys, a, a, "--metric", "ndgc@10"
    )
    (tmp_path / "empty").mkdir()
    assert "empty: found no data/evaluate/per_user.parquet in it" in failing(capsys, a, "empty")
    assert "data/evaluate/per_user.parquet: no such file, the stage evaluate writes it (dvc repro)" in failing(
        capsys, "workspace", a
    )
    (tmp_path / "twin").mkdir()
    pq.write_table(pa.table({"user_id": [1, 2]}), tmp_path / "twin" / "per_user.parquet")
    assert "twin: found users without values: a twin, which has no accuracy" in failing(capsys, "twin", a)


def test_the_same_users_with_other_targets_are_refused(save: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    first, later = [f"item {user}" for user in range(USERS)], [f"item {user + user % 4}" for user in range(USERS)]
    a, b, c = save("a", run(2, names=first)), save("b", run(4, names=later)), save("c", run(4, names=first))
    assert failing(capsys, a, b) == (
        "error: a and b: found the same test users with other targets (30 of 40), allowed: two runs over one data set "
        "and one split"
    )
    execute(["compare", a, c, "--resamples", "100"])  # another model over one split
    printed = capsys.readouterr()
    assert ("c is worse by 0.1001" in printed.out, printed.err) == (True, "")
    execute(["compare", a, save("old", run(4)), "--resamples", "100"])
    assert (
        "note: old is of an earlier version, which did not record the targets: whether both" in capsys.readouterr().err
    )


def test_a_damaged_run_is_named(save: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    a, path = save("a", run(2)), tmp_path / "a" / "data" / "evaluate" / "per_user.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert failing(capsys, a, a).startswith("error: a: its data/evaluate/per_user.parquet is damaged (")


@pytest.fixture(params=["", "team/project"], ids=["of its own", "in a sub-folder"])
def repository(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository whose commits ``first`` and ``second`` (tags) hold runs of other models; ``none`` holds none.

    It has a git repository of its own, or lies in a sub-folder of one.
    """
    root = tmp_path / request.param
    output = root / "data" / "evaluate" / "per_user.parquet"
    output.parent.mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    from dvc.repo import Repo

    def git(*command: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *command], check=True, capture_output=True)

    git("init", "-q", str(tmp_path))
    with Repo.init(".", subdir=root != tmp_path) as repo:
        git("commit", "-qam", "none")
        git("tag", "none")
        for name, rank in (("first", 2), ("second", 4)):
            write_evaluation(run(rank), output)
            repo.add(str(output))
            git("add", ".")
            git("commit", "-qm", name)
            git("tag", name)
    output.unlink()
    return root


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_revisions_come_from_the_cache(repository: Path, capsys: pytest.CaptureFixture[str]):
    execute(["compare", "first", "second", "--resamples", "100"])
    assert "first has ndcg@10 0.8155, second 0.7153: second is worse by 0.1001" in capsys.readouterr().out
    assert "third: found no folder, experiment or revision of this name; `dvc exp show`" in failing(
        capsys, "first", "third"
    )
    assert "none: found no data/evaluate/per_user.parquet of it in DVC's cache" in failing(capsys, "first", "none")
    for path in (repository / ".dvc" / "cache").rglob("*"):
        if path.is_file():
            path.unlink()
    assert "first: found no data/evaluate/per_user.parquet of it in DVC's cache" in failing(capsys, "first", "second")


def noisy(seed: int, *, share: float, names: list[str] | None = None, first_id: int = 0) -> Evaluation:
    """A run of 40 users who are hit at rank 1 with this probability."""
    generator = np.random.default_rng(seed)
    lists = np.tile(np.arange(12), (USERS, 1))
    targets = np.where(generator.random(USERS) < share, 0, 11)
    return evaluate(
        lists, targets, (1, 10), LogCounts(np.full(12, 2), 4), user_ids=np.arange(USERS) + first_id, targets=names
    )


def test_several_seeds_of_both(save: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    a = ",".join(save(f"exact-{seed}", noisy(seed, share=0.3)) for seed in (1, 2, 3))
    b = ",".join(save(f"sampled-{seed}", noisy(10 + seed, share=0.9)) for seed in (1, 2))
    execute(["compare", a, b, "--out", str(tmp_path / "table.csv")])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header[1:3] == ["exact", "sampled"]
    assert header[-2:] == ["error of users", "error of seeds"]
    assert "exact (3 seeds) has ndcg@10" in lines[-1]
    assert "sampled (2 seeds) is better by" in lines[-1]
    with (tmp_path / "table.csv").open() as file:
        table = {row["metric"]: row for row in csv.DictReader(file)}
    assert (table["ndcg@10"]["seeds_a"], table["ndcg@10"]["seeds_b"], table["ndcg@10"]["users"]) == ("3", "2", "40")
    assert float(table["ndcg@10"]["error_users"]) > 0


def test_an_error_of_seeds_that_cannot_be_seen_is_not_printed_as_zero(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    """Both seeds hit half of the users, others each: their means are equal, so nothing is seen of the seeds' effect."""

    def half(first: int, rank: int) -> Evaluation:
        targets = np.where((np.arange(USERS) + first) % 2, rank - 1, 11)
        return evaluate(np.tile(np.arange(12), (USERS, 1)), targets, (1, 10), user_ids=np.arange(USERS), num_items=12)

    a, b = (",".join(save(f"{side}{seed}", half(seed, rank)) for seed in (1, 2)) for side, rank in (("a", 1), ("b", 2)))
    execute(["compare", a, b])
    *table, _, sentence = capsys.readouterr().out.splitlines()
    assert table[-1].split("|")[-2].strip() == "too small to see"
    assert "(that of the seeds is too small to be seen with 2 and 2 of them)" in sentence


def test_seeds_are_compared_over_users_with_the_same_targets(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    """The seed draws validation users and orders ties: other users, other targets."""
    targets = [f"item {user}" for user in range(USERS)]
    changed = [*targets[:5], *["another"] * 5, *targets[10:]]
    runs = [
        save("a1", noisy(1, share=0.3, names=targets)),
        save("a2", noisy(2, share=0.3, names=[*targets[3:], "x", "y", "z"], first_id=3)),
        save("b1", noisy(3, share=0.6, names=changed)),
        save("b2", noisy(4, share=0.6, names=targets)),
    ]
    execute(["compare", "a1,a2", "b1,b2"])
    printed = capsys.readouterr()
    assert printed.err == (
        "note: of up to 40 users of a run, those count whom all runs tested on the same target: 32\n"
    )
    assert "from 32 users" in printed.out
    assert failing(capsys, "a1,a2", "b1") == (
        "error: B: found 1 run, b1, beside 2, allowed: at least 2 of different seeds, with commas between their names, "
        "or one run on both sides"
    )
    assert "a1 and a1: found equal values of all users, allowed: runs of different seeds" in failing(
        capsys, "a1,a1", "b1,b2"
    )
    far = save("far", noisy(5, share=0.3, first_id=1000))
    assert "found 0 users whom all runs tested on the same target" in failing(capsys, f"{runs[0]},{far}", "b1,b2")


def test_seeds_of_users_with_several_targets_pair_the_lists_in_their_order(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    """The second run tests the users in another order, and the first user on one target less."""
    ids, lists = np.repeat(np.arange(USERS), 2), np.tile(np.arange(12), (2 * USERS, 1))
    targets = np.tile([0, 9], USERS)
    moved = np.argsort(-ids, kind="stable")[:-1]

    def saved(name: str, places: np.ndarray, change: int) -> str:
        found = np.where(ids[places] % 7 == change, 1, targets[places])
        names = [f"{user} {target}" for user, target in zip(ids[places], targets[places], strict=True)]
        run = evaluate(lists[places], found, (1, 10), user_ids=ids[places], targets=np.array(names))
        return save(name, run)

    whole = np.arange(2 * USERS)
    a, b = (
        ",".join([saved(f"{side}1", whole, n), saved(f"{side}2", moved, n + 2)]) for side, n in (("a", 1), ("b", 4))
    )
    execute(["compare", a, b])
    assert "from 40 users" in capsys.readouterr().out
