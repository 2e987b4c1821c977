"""A folder with a model, for the tests of ``cutrec recommend``."""

import shutil
from pathlib import Path

import pytest

from tests.cutrec.commands.recommending import run
from tests.small_log import write_params
from tests.small_model import SETTINGS, write_model


@pytest.fixture(scope="session")
def trained_once(split_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after download, split and one epoch of train; the weights are random."""
    folder = tmp_path_factory.mktemp("trained") / "checkout"
    shutil.copytree(split_once, folder)
    write_params(folder, SETTINGS)
    write_model(folder)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    monkeypatch.chdir(shutil.copytree(trained_once, tmp_path / "checkout"))
    return tmp_path / "checkout"


@pytest.fixture(scope="session")
def refitted_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after ``cutrec recommend --refit``."""
    folder = shutil.copytree(trained_once, tmp_path_factory.mktemp("refitted") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("--refit", "--k", "2")
    return folder
