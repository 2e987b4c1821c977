"""dvc.yaml: a stage depends on everything that it imports, and on every key of params.yaml that it reads."""

import ast
import re
from pathlib import Path

import pytest

from cutrec.config import Config, read_yaml
from cutrec.reporting import report

ROOT = Path(__file__).parents[2]
PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]
PACKAGES = {"cce_kernels", "rec_data", "rec_models", "rec_eval"}
IMPORTED_BY = {"rec_models": {"cce_kernels"}}
REFUSING = {"cutrec.workflow.training_inputs", "rec_models.config"}
"""What `params.refuse_contradictions` imports: it changes no output of a stage that does not import it otherwise."""


def script(name: str) -> Path:
    return ROOT / "pipelines" / f"{name}.py"


def code_of(path: Path) -> set[Path]:
    """What a script imports, anywhere in it: ``src`` of packages, files of ``pipelines`` and what they import."""
    found, waiting = set(), [path]
    while waiting:
        new = imported_by(waiting.pop()) - found
        found |= new
        waiting += [file for file in new if file.suffix == ".py"]
    return found - {path}


def imported_by(path: Path) -> set[Path]:
    """The same of one file alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    if path == ROOT / "pipelines" / "params.py":
        names = {name for name in names if not any(name.startswith(left) for left in REFUSING)}
        names -= {"pipelines.models", "rec_models"}
    packages = {name.split(".")[0] for name in names} & PACKAGES
    for package in list(packages):
        packages |= IMPORTED_BY.get(package, set())
    modules = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("pipelines.")}
    sources = {ROOT / "packages" / package.replace("_", "-") / "src" for package in packages}
    return sources | {file for file in modules if file.is_file()}


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"source"}))
def test_a_stage_depends_on_the_code_it_runs_and_on_no_other(name: str):
    code = {dep for dep in STAGES[name]["deps"] if re.match(r"packages/|pipelines/.*\.py$", dep)}
    needed = {script(name), *code_of(script(name))}
    assert code == {path.relative_to(ROOT).as_posix() for path in needed}


def test_packages_of_pipelines_hold_no_code_themselves():
    """So no stage needs to depend on them."""
    for path in (ROOT / "pipelines").rglob("__init__.py"):
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr), path


def test_a_stage_with_a_template_depends_on_it():
    assert report.TEMPLATE.relative_to(ROOT).as_posix() in STAGES["report"]["deps"]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_lists_the_params_it_reads(name: str):
    shared = ("params.py", "stage.py")  # `stage.mirror` is called by those that read the log alone
    files = [path for path in code_of(script(name)) if path.suffix == ".py" and path.name not in shared]
    text = "".join(path.read_text() for path in (script(name), *files))
    read = set(re.findall(r"\bpoint\.([a-z_]+)", text)) & set(vars(Config()))
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
