"""The source files of this project that a file depends on, found by its imports."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FOLLOWED = ("cutrec", "pipelines")
"""Packages whose modules count one by one."""
PACKAGES = ("cce_kernels", "rec_data", "rec_eval", "rec_models")
"""Packages that count as a whole: an import of one module is an import of all."""
SETTINGS = "cutrec.config"
"""The module that reads params.yaml for every stage.

It imports what declares and checks the settings of all stages. That alone does not make a stage depend on this code:
DVC compares the values of the settings by itself. Only its neighbours in ``cutrec`` are followed.
"""


def source_files(start: Path) -> dict[str, Path]:
    """The files behind a file, by module name: the modules of ``cutrec`` it imports, and all of the other packages.

    Imports inside functions count, imports for type checking do not.

    Args:
        start: a Python file; it is not part of the result unless a module it reaches imports it.
    """
    modules, packages = reached(start)
    for package in packages:
        folder = _folder(package)
        for path in sorted(folder.rglob("*.py")):
            modules[path.relative_to(folder.parent).with_suffix("").as_posix().replace("/", ".")] = path
    return modules


def reached(start: Path) -> tuple[dict[str, Path], set[str]]:
    """The modules of `FOLLOWED` and the packages of `PACKAGES` that a file imports, directly or not."""
    modules: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        names = _imports(path)
        if path == modules.get(SETTINGS):
            names = {name for name in names if name.rpartition(".")[0] == "cutrec"}
        for name in names:
            package = name.split(".")[0]
            if package in PACKAGES:
                packages |= {package, *_siblings(package)}
            elif package in FOLLOWED and name not in modules and (found := _file(name)):
                modules[name] = found
                waiting.append(found)
    return modules, packages


def _imports(path: Path) -> set[str]:
    """The names of modules, and perhaps of things in them, that a file imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def _siblings(package: str) -> set[str]:
    """The other packages that a package imports."""
    texts = [path.read_text(encoding="utf-8") for path in _folder(package).rglob("*.py")]
    return {name for text in texts for name in re.findall(r"(?m)^ *(?:from|import) (\w+)", text)} & set(PACKAGES)


@cache
def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _file(name: str) -> Path | None:
    """The file of a module; None for a package or for something inside a module."""
    path = _folder(name.split(".")[0]).parent / f"{name.replace('.', '/')}.py"
    return path if path.is_file() else None
