"""dvc.yaml: a stage depends on all code that it imports, and on every key of params.yaml that it reads."""

import ast
import re
from pathlib import Path

import pytest

from cutrec.config import Config, read_yaml
from cutrec.reporting.page import TEMPLATE
from cutrec.workflow.source_code import reached

ROOT = Path(__file__).parents[2]
PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]
PACKAGES = ("cce-kernels", "cutrec", "rec-data", "rec-eval", "rec-models")
SETTINGS = ("cutrec.config", "cutrec.nested", "cutrec.strict")
"""Modules that read params.yaml for all stages."""


def script(name: str) -> Path:
    return ROOT / "pipelines" / f"{name}.py"


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"source"}))
def test_a_stage_depends_on_the_code_it_runs_and_on_no_other(name: str):
    modules, packages = reached(script(name))
    needed = {path.relative_to(ROOT).as_posix() for path in (script(name), *modules.values())}
    needed |= {f"packages/{package.replace('_', '-')}/src" for package in packages}
    if any("TEMPLATE" in path.read_text() for path in modules.values()):
        needed.add(TEMPLATE.relative_to(ROOT).as_posix())
    assert {dep for dep in STAGES[name]["deps"] if re.match("packages/|pipelines/", dep)} == needed


def test_packages_that_are_followed_by_module_hold_no_code_themselves():
    """So no stage needs to depend on them."""
    for folder in (ROOT / "pipelines", ROOT / "packages/cutrec/src/cutrec"):
        for path in folder.rglob("__init__.py"):
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr), path


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_lists_the_params_it_reads(name: str):
    modules, _ = reached(script(name))
    files = [script(name), *(path for module, path in modules.items() if module not in SETTINGS)]
    text = "".join(path.read_text() for path in files)
    read = set(re.findall(r"\b(?:config|point)\.([a-z_]+)", text)) & set(vars(Config()))
    listed = {key.split(".")[0] for key in STAGES[name]["params"]}
    assert read <= listed


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_copy_of_a_queued_experiment_comes_first_on_the_path(name: str):
    assert STAGES[name]["cmd"] == f"${{python}} -m pipelines.{name}"
    path = re.search(r"PYTHONPATH=(\S+)", PIPELINE["vars"][0]["python"]).group(1).split(":")
    assert sorted(path) == [f"packages/{package}/src" for package in PACKAGES]


def test_metrics_live_in_git_and_everything_else_in_the_cache():
    for name, stage in STAGES.items():
        for metric in stage.get("metrics", []):
            assert next(iter(metric.values())) == {"cache": False}, name
        assert all(isinstance(out, str) for out in stage["outs"]), name
