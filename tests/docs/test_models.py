"""What docs/models.md says: its commands and examples, between a repository, its remotes and a folder elsewhere."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.config import read_yaml
from cutrec.outputs import read_json, write_json
from cutrec.recommender import Recommender
from tests.docs.pages import ROOT, blocks, commands_in
from tests.small_model import write_trained

PAGE = ROOT / "docs/models.md"
ADDRESS = "https://git.example/team/shop.git"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository, ``shop``, after the stage train as dvc.yaml has it, and its two remotes."""
    place = tmp_path_factory.mktemp("artifacts")
    repository = place / "shop"
    repository.mkdir()
    write_trained(repository)
    written = read_yaml(ROOT / "dvc.yaml")
    train = {key: found for key, found in written["stages"]["train"].items() if key in ("cmd", "outs", "metrics")}
    stages = {"stages": {"train": train}, "artifacts": written["artifacts"]}
    YAML(typ="safe").dump(stages, repository / "dvc.yaml")
    write_json(repository / "data/train/metrics.json", {"validation_ndcg@10": 0.1})
    for name in ("README.md", "history.csv", "settings.yaml"):
        (repository / "data/train" / name).write_text("text\n")
    (repository / "data/train/tensorboard").mkdir()
    (repository / "data/train/tensorboard/events").touch()
    write_checksums(repository / "data/train")
    (repository / ".gitignore").write_text("/data/download\n/data/split\n")
    return place


def run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the page in a folder, in this process if that saves starting Python."""
    from dvc.cli import main

    monkeypatch.chdir(folder)
    name, *arguments = shlex.split(command.removeprefix("uv run ").replace(ADDRESS, "../shop.git"))
    if name == "dvc":
        assert main([*arguments, "--quiet"]) == 0, command
    elif name == "cutrec":
        execute(arguments)
    else:
        subprocess.run([name, *arguments], check=True, capture_output=True)


def ran(code: str) -> dict[str, Any]:
    """The names that a block of Python defines."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_a_model_is_handed_over_and_used_elsewhere(shop: Path, monkeypatch: pytest.MonkeyPatch):
    repository, elsewhere = shop / "shop", shop / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(shop / "gitconfig"))
    (shop / "gitconfig").write_text("[user]\nname = t\nemail = t@localhost\n[init]\ndefaultBranch = main\n")
    for command in (
        "git init --quiet", "git init --quiet --bare ../shop.git", "git remote add origin ../shop.git", "dvc init",
        f"dvc remote add --default shared {shop / 'remote'}", "dvc commit --force", "git add --all",
        "git commit --quiet --message=trained",
    ):  # fmt: skip
        run(command, repository, monkeypatch)
    push, get, export = (commands_in(block) for block in blocks(PAGE, "bash"))
    for command in push:
        run(command, repository, monkeypatch)
    for command in (*get, *export):
        run(command, elsewhere, monkeypatch)

    trained = repository / "data/train"
    outputs = {path.name for path in trained.iterdir()}
    for name in ("model", "model-1.0.0"):
        assert {path.name for path in (elsewhere / name).iterdir()} == outputs
    assert (elsewhere / "card.md").read_text() == "text\n"

    about, from_python, with_onnx = blocks(PAGE, "python")
    monkeypatch.chdir(repository)
    assert ran(about)["about"]["num_items"] == 40
    monkeypatch.chdir(elsewhere)
    found = ran(from_python.replace(ADDRESS, "../shop.git"))
    assert found["metrics"] == read_json(trained / "metrics.json")
    assert len(found["lists"]) == 10
    found = ran(with_onnx)
    history = {"a": found["histories"][0]}
    expected = Recommender.load(elsewhere / "model").recommend(histories=history, k=10, filter_seen=False)
    assert found["best"] == expected["item_id"].to_list()
    scores = found["scores"][0][[found["rows"][item] for item in found["best"]]]
    assert scores.tolist() == pytest.approx(expected["score"].to_list(), rel=1e-5, abs=1e-5)
