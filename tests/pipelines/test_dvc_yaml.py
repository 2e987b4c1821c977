"""dvc.yaml: a stage depends on everything that it imports, and on every key of params.yaml that it reads."""

import ast
import re
from pathlib import Path

import pytest

from pipelines.params import Params, read_yaml

ROOT = Path(__file__).parents[2]
PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]
PACKAGES = {"cce_kernels", "rec_data", "rec_models", "rec_eval"}
IMPORTED_BY = {"rec_models": {"cce_kernels"}}


def script(name: str) -> Path:
    return ROOT / "pipelines" / f"{name}.py"


def imported(path: Path) -> set[str]:
    """Packages of ours, and modules of ``pipelines``, that a script imports, and those that these modules import."""
    found, waiting = set(), [path]
    while waiting:
        new = imported_by(waiting.pop()) - found
        found |= new
        waiting += [script(name.split(".")[1]) for name in new if name.startswith("pipelines.")]
    return found - {f"pipelines.{path.stem}"}


def imported_by(path: Path) -> set[str]:
    """The same of one file, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "pipelines":
            found |= {f"pipelines.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    packages = {name.split(".")[0] for name in found} & PACKAGES
    for package in list(packages):
        packages |= IMPORTED_BY.get(package, set())
    return packages | {name for name in found if name.startswith("pipelines.")}


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"source"}))
def test_a_stage_depends_on_all_the_code_it_runs(name: str):
    deps = set(STAGES[name]["deps"])
    assert f"pipelines/{name}.py" in deps
    for module in imported(script(name)):
        if module.startswith("pipelines."):
            assert f"pipelines/{module.split('.')[1]}.py" in deps, module
        else:
            assert f"packages/{module.replace('_', '-')}/src" in deps, module


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"source"}))
def test_a_stage_depends_on_no_code_it_does_not_run(name: str):
    code = {dep for dep in STAGES[name]["deps"] if re.match(r"packages/|pipelines/.*\.py$", dep)}
    modules = imported(script(name))
    for dep in code - {f"pipelines/{name}.py"}:
        module = f"pipelines.{Path(dep).stem}" if dep.startswith("pipelines/") else dep.split("/")[1].replace("-", "_")
        assert module in modules, dep


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_lists_the_params_it_reads(name: str):
    text = script(name).read_text()
    read = set(re.findall(r"\bpoint\.([a-z_]+)", text)) & set(vars(Params()))
    listed = {key.split(".")[0] for key in STAGES[name]["params"]}
    assert read <= listed


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_copy_of_a_queued_experiment_comes_first_on_the_path(name: str):
    assert STAGES[name]["cmd"] == f"${{python}} -m pipelines.{name}"
    path = re.search(r"PYTHONPATH=(\S+)", PIPELINE["vars"][0]["python"]).group(1).split(":")
    assert sorted(path) == sorted(f"packages/{package.replace('_', '-')}/src" for package in PACKAGES)


def test_metrics_live_in_git_and_everything_else_in_the_cache():
    for name, stage in STAGES.items():
        for metric in stage.get("metrics", []):
            assert next(iter(metric.values())) == {"cache": False}, name
        assert all(isinstance(out, str) for out in stage["outs"]), name
