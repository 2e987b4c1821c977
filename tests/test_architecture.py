"""The dependency arrows of the packages, and what each may import."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIBLINGS = {"cce_kernels", "rec_data", "rec_models", "rec_eval"}
ARROWS = {"cce_kernels": set(), "rec_data": set(), "rec_models": {"cce_kernels"}, "rec_eval": set()}
TRAINING_MODULES = {"rec_data": {"batches", "sequences"}, "rec_models": None, "rec_eval": None, "cce_kernels": None}
"""What must run where polars is absent; None stands for the whole package."""


def imports(path: Path) -> set[str]:
    """Top-level names of all that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / "packages" / package.replace("_", "-") / "src" / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_packages_import_only_the_siblings_they_may(package: str):
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources(package)
        if (found := imports(path) & ({*SIBLINGS, "pipelines"} - {package} - ARROWS[package]))
    }
    assert wrong == {}


def test_cce_kernels_needs_torch_and_triton_only():
    for path in sources("cce_kernels"):
        foreign = imports(path) - sys.stdlib_module_names - {"torch", "triton", "cce_kernels"}
        assert foreign == set(), path


@pytest.mark.parametrize("package", sorted(TRAINING_MODULES))
def test_training_and_evaluation_run_without_polars(package: str):
    only = TRAINING_MODULES[package]
    for path in sources(package):
        if only is None or path.stem in only:
            assert "polars" not in imports(path), path


def test_every_arrow_is_a_declared_dependency():
    import tomllib

    for package, allowed in ARROWS.items():
        project = tomllib.loads((ROOT / "packages" / package.replace("_", "-") / "pyproject.toml").read_text())[
            "project"
        ]
        declared = {line.split(">")[0].split("[")[0].strip().replace("-", "_") for line in project["dependencies"]}
        assert declared & SIBLINGS == allowed
