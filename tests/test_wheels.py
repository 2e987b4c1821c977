"""Each package builds a wheel that imports in an empty environment holding its own dependencies and nothing else."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cce-kernels", "rec-data", "rec-models", "rec-eval", "cutrec")
USES = {
    "cce-kernels": "from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy",
    "rec-data": "from rec_data.sequences.batches import SequenceStore, TrainingBatches",
    "rec-models": "from rec_models.training.loop import fit; from rec_models.inference import load",
    "rec-eval": "from rec_eval import evaluate, top_k",
    "cutrec": "import cutrec.workflow.report; from cutrec import Recommender",
}

pytestmark = pytest.mark.slow


def uv(*arguments: object) -> str:
    """Run uv in the root (its settings there fix the versions) and return what it printed."""
    executable = shutil.which("uv")
    assert executable, "the tests run under `uv run pytest`"
    done = subprocess.run(
        [executable, *map(str, arguments)], cwd=ROOT, check=False, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        uv("build", "--quiet", "--wheel", "--out-dir", folder, f"packages/{package}")
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_imports_in_an_empty_environment(package: str, wheels: Path, tmp_path: Path):
    """All at one path, so that Python compiles the files that several environments hold once."""
    environment = wheels / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    python = environment / "bin" / "python"
    uv("venv", "--quiet", "--python", "3.11", environment)
    wheel = next(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
    uv("pip", "install", "--quiet", "--python", python, "--find-links", wheels, wheel)
    subprocess.run(
        [python, "-c", USES[package]], cwd=tmp_path, check=True, timeout=120,
        env={"PYTHONPYCACHEPREFIX": str(wheels / "compiled")},
    )  # fmt: skip


def test_the_wheel_of_the_kernels_holds_the_licence(wheels: Path):
    """It is useful by itself, so people pass it on by itself."""
    with zipfile.ZipFile(next(wheels.glob("cce_kernels-*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
