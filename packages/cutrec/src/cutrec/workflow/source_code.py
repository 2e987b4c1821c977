"""The source files of this project that a file depends on, found by its imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

FOLLOWED = ("cutrec", "pipelines")
"""Packages whose modules count one by one."""
PACKAGES = ("cce_kernels", "rec_data", "rec_eval", "rec_models")
"""Packages that count as a whole: an import of one module is an import of all."""
SETTINGS = "cutrec.config"
"""The modules that read params.yaml for every stage have names that start with this.

They import what declares and checks the settings of all stages. That alone does not make a stage depend on this code:
DVC compares the values of the settings by itself. Only their neighbours in ``cutrec`` are followed.
"""


def source_files(start: Path) -> dict[str, Path]:
    """The files behind a file, by name: the modules of `FOLLOWED` and all files of the `PACKAGES` that it imports."""
    files, packages = reached(start)
    for folder in map(_folder, packages):
        files |= {path.relative_to(folder.parent).as_posix(): path for path in folder.rglob("*.py")}
    return files


def reached(start: Path) -> tuple[dict[str, Path], set[str]]:
    """The modules of `FOLLOWED` by name, and the `PACKAGES`, that a file imports, directly or not.

    Imports inside functions count, imports for type checking do not.

    Args:
        start: a Python file; it is not part of the result unless a module that it imports imports it.
    """
    modules: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = [("", start)]
    while waiting:
        importer, path = waiting.pop()
        for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            package = name.split(".")[0]
            if importer.startswith(SETTINGS) and name.rpartition(".")[0] != "cutrec":
                continue
            if package in PACKAGES:
                packages |= {package, "cce_kernels"} if package == "rec_models" else {package}
            elif package in FOLLOWED and name not in modules:
                file = _folder(package).parent / f"{name.replace('.', '/')}.py"
                if file.is_file():
                    modules[name] = file
                    waiting.append((name, file))
    return modules, packages


def _imports(node: ast.AST) -> Iterator[str]:
    """The names of modules, and perhaps of things in them, that code imports when it runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (str(child.module), *(f"{child.module}.{alias.name}" for alias in child.names))
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _imports(child)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
