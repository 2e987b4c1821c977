"""dvc.yaml: a stage depends on all code that it imports, and on every key of params.yaml that it reads."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cutrec.config import read_yaml
from cutrec.config_point import Config
from cutrec.reporting.page import TEMPLATE

ROOT = Path(__file__).parents[2]
PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]
FOLLOWED = ("cutrec", "pipelines")
"""Packages whose modules count one by one."""
PACKAGES = ("cce_kernels", "rec_data", "rec_eval", "rec_models")
"""Packages that count as a whole: an import of one module is an import of all."""
SETTINGS = "cutrec.config"
"""The modules that read params.yaml for every stage have names that start with this.

They import what declares and checks the settings of all stages. That alone does not make a stage depend on this code:
DVC compares the values of the settings by itself. Only their neighbours in ``cutrec`` are followed.
"""


def reached(start: Path) -> tuple[dict[str, Path], set[str]]:
    """The modules of `FOLLOWED` by name, and the `PACKAGES`, that a file imports, directly or not.

    Imports inside functions count, imports for type checking do not.
    """
    modules: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = [("", start)]
    while waiting:
        importer, path = waiting.pop()
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            package = name.split(".")[0]
            if importer.startswith(SETTINGS) and name.rpartition(".")[0] != "cutrec":
                continue
            if package in PACKAGES:
                packages |= {package, "cce_kernels"} if package == "rec_models" else {package}
            elif package in FOLLOWED and name not in modules:
                file = folder_of(package).parent / f"{name.replace('.', '/')}.py"
                if file.is_file():
                    modules[name] = file
                    waiting.append((name, file))
    return modules, packages


def imported_names(node: ast.AST) -> Iterator[str]:
    """The names of modules, and perhaps of things in them, that code imports when it runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (str(child.module), *(f"{child.module}.{alias.name}" for alias in child.names))
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imported_names(child)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


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
    """So no stage needs to depend on them. `cutrec` itself only imports by name what no stage asks for."""
    lazy = ROOT / "packages/cutrec/src/cutrec/__init__.py"
    assert {name.split(".")[0] for name in imported_names(ast.parse(lazy.read_text()))} == {"importlib", "typing"}
    for folder in (ROOT / "pipelines", lazy.parent):
        for path in set(folder.rglob("__init__.py")) - {lazy}:
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr), path


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_lists_the_params_it_reads(name: str):
    modules, _ = reached(script(name))
    own = [path for module, path in modules.items() if not module.startswith((SETTINGS, "cutrec.nested"))]
    text = "".join(path.read_text() for path in [script(name), *own])
    read = set(re.findall(r"\b(?:config|point)\.([a-z_]+)", text)) & (set(vars(Config())) - {"undecided"})
    listed = {key.split(".")[0] for key in STAGES[name]["params"]}
    assert read <= listed


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_is_run_by_its_name(name: str):
    """`pipelines/__main__.py` puts the packages of a queued experiment's copy first on the path."""
    assert STAGES[name]["cmd"] == f"python -m pipelines {name}"


def test_metrics_and_decided_settings_live_in_git_and_everything_else_in_the_cache():
    for name, stage in STAGES.items():
        in_git = [out for out in stage["outs"] if not isinstance(out, str)]
        assert [path for out in in_git for path in out] == (["data/train/settings.yaml"] if name == "train" else [])
        for out in [*in_git, *stage.get("metrics", [])]:
            assert next(iter(out.values())) == {"cache": False}, name


FILES = {
    "stage.py": "from cutrec.a import f\nimport json",
    "cutrec/__init__.py": "",
    "cutrec/a.py": "def f():\n    from cutrec.deep import b\n    from cutrec import config",
    "cutrec/deep/__init__.py": "",
    "cutrec/deep/b.py": "import cutrec.a\nif TYPE_CHECKING:\n    import cutrec.types",
    "cutrec/types.py": "",
    "cutrec/unused.py": "",
    "cutrec/config.py": "import rec_eval\nfrom cutrec.nested import x\nfrom cutrec.deep.c import y",
    "cutrec/nested.py": "",
    "cutrec/deep/c.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "folder_of", lambda package: tmp_path / package)
    return tmp_path


def test_imports_are_followed_but_not_those_for_types_and_not_those_of_settings(folder: Path):
    modules, packages = reached(folder / "stage.py")
    assert sorted(modules) == ["cutrec.a", "cutrec.config", "cutrec.deep.b", "cutrec.nested"]
    assert modules["cutrec.deep.b"] == folder / "cutrec/deep/b.py"
    assert packages == set()
