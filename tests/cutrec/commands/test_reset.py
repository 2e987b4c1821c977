"""``cutrec reset`` brings back the committed params.yaml from every state that experiments leave, and nothing else."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutrec import cli
from cutrec.commands import reset
from cutrec.config import read_yaml
from cutrec.errors import StageError
from cutrec.presets import write_preset
from tests.small_log import write_params

EDITED = {"seed": 1, "backbone.blocks": 3}
SHOWN = ["seed: 1 -> 42", "backbone.blocks: 3 -> auto"]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(workplace: Callable[[dict[str, Any]], Path]) -> Path:
    """A commit of params.yaml and two other files, one of which is then edited and the other one staged."""
    folder = workplace({})
    for name in ("edited.txt", "staged.txt"):
        (folder / name).write_text("committed\n")
    git("init", "--quiet")
    git("add", "--all")
    git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", "start")
    for name in ("edited.txt", "staged.txt"):
        (folder / name).write_text("mine\n")
    git("add", "staged.txt")
    return folder


def edited(folder: Path) -> None:
    write_params(folder, EDITED)


def staged(folder: Path) -> None:
    write_params(folder, EDITED)
    git("add", "params.yaml")


def edited_again_after_staging(folder: Path) -> None:
    staged(folder)
    write_params(folder, {**EDITED, "seed": 5})


def detached(folder: Path) -> None:
    git("checkout", "--quiet", "--detach")
    write_params(folder, EDITED)


def deleted(folder: Path) -> None:
    (folder / "params.yaml").unlink()


def removed_from_the_index(folder: Path) -> None:
    git("rm", "--quiet", "params.yaml")


def damaged(folder: Path) -> None:
    (folder / "params.yaml").write_text("loss: [\n")


def edited_unnoticed_by_git(folder: Path) -> None:
    """As an edit by DVC that keeps the length of the file, within the resolution of the file system's clock."""
    git("update-index", "--assume-unchanged", "params.yaml")
    write_params(folder, {"seed": 43})


def untouched(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("leave", "printed"),
    [
        (edited, SHOWN),
        (staged, SHOWN),
        (edited_again_after_staging, ["seed: 5 -> 42", SHOWN[1]]),
        (detached, SHOWN),
        (deleted, ["params.yaml was missing"]),
        (removed_from_the_index, ["params.yaml was missing"]),
        (damaged, ["params.yaml: not valid YAML -> as committed"]),
        (edited_unnoticed_by_git, ["seed: 43 -> 42"]),
        (untouched, ["params.yaml already holds the committed parameters"]),
    ],
)
def test_the_committed_parameters_come_back_and_other_files_stay(
    checkout: Path, leave: Callable[[Path], None], printed: list[str], capsys: pytest.CaptureFixture[str]
):
    committed = (checkout / "params.yaml").read_bytes()
    leave(checkout)
    if not (checkout / "params.yaml").exists():
        (checkout / "dvc.yaml").write_text("stages: {}\n")  # by which the root of the checkout is still found
    cli.execute(["reset"])
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(printed)
    assert (checkout / "params.yaml").read_bytes() == committed
    git("update-index", "--no-assume-unchanged", "params.yaml")
    (checkout / "dvc.yaml").unlink(missing_ok=True)
    assert git("status", "--porcelain") == " M edited.txt\nM  staged.txt\n"


def test_a_lock_that_a_killed_git_left_is_named_after_the_file_is_restored(checkout: Path):
    committed = (checkout / "params.yaml").read_bytes()
    staged(checkout)
    lock = checkout / ".git/index.lock"
    lock.write_bytes(b"")
    with pytest.raises(
        StageError, match=r"^params.yaml is restored, but .* remove \.git/index\.lock and run this again$"
    ):
        cli.execute(["reset"])
    assert (checkout / "params.yaml").read_bytes() == committed
    lock.unlink()
    cli.execute(["reset"])
    assert git("diff", "--cached", "--name-only") == "staged.txt\n"


def test_presets_that_are_not_committed_are_kept(checkout: Path, capsys: pytest.CaptureFixture[str]):
    """A search by `cutrec tune` took hours."""
    before = read_yaml(checkout / "params.yaml")
    edited(checkout)
    write_preset(checkout / "params.yaml", "shop", {"loss": "cce", "backbone.hidden": 128}, overwrite=False)
    cli.execute(["reset"])
    *changes, kept = capsys.readouterr().out.splitlines()
    assert sorted(changes) == sorted(SHOWN)
    assert kept == "kept, although not committed: presets.shop"
    after = read_yaml(checkout / "params.yaml")
    assert after["presets"].pop("shop") == {"loss": "cce", "backbone": {"hidden": 128}}
    assert after == before


def test_a_preset_that_a_search_writes_meanwhile_is_kept(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {"path": checkout / "params.yaml", "name": "shop", "values": {"loss": "cce"}, "overwrite": False}
    search = threading.Thread(target=write_preset, kwargs=settings)
    look = reset.uncommitted_presets

    def look_slowly(found: bytes, committed: bytes) -> dict[str, Any]:
        presets = look(found, committed)
        search.start()
        search.join(0.3)
        return presets

    monkeypatch.setattr(reset, "uncommitted_presets", look_slowly)
    cli.execute(["reset"])
    search.join()
    assert read_yaml(checkout / "params.yaml")["presets"]["shop"] == {"loss": "cce"}


def test_a_preset_that_is_wrong_does_not_keep_the_others(checkout: Path, capsys: pytest.CaptureFixture[str]):
    write_params(checkout, {**EDITED, "presets.wrong": {"batch_size": 0}, "presets.shop": {"loss": "cce"}})
    cli.execute(["reset"])
    printed = capsys.readouterr()
    assert printed.err.startswith("note: a preset is not kept: presets.wrong")
    assert printed.out.splitlines()[-1] == "kept, although not committed: presets.shop"


def test_it_works_from_a_folder_of_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    edited(checkout)
    (checkout / "docs").mkdir()
    monkeypatch.chdir(checkout / "docs")
    cli.execute(["reset"])
    monkeypatch.chdir(checkout)
    assert git("diff", "--name-only") == "edited.txt\n"


@pytest.mark.parametrize("installed", [True, False])
def test_without_git_it_says_what_helps(
    workplace: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch, installed: bool
):
    """As in a downloaded archive."""
    folder = workplace(EDITED)
    if not installed:
        monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(StageError, match=r"git is not installed|not a git repository") as caught:
        cli.execute(["reset"])
    assert str(caught.value).endswith("; allowed: a clone, or take the file from the downloaded archive again")
