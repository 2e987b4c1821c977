"""The dependency arrows of the packages, no cycles between files or folders, and what each package may import."""

import ast
import sys
import tomllib
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIBRARIES = {"cce_kernels", "rec_data", "rec_models", "rec_eval"}
ARROWS = {
    "cce_kernels": set(),
    "rec_data": set(),
    "rec_eval": set(),
    "rec_models": {"cce_kernels"},
    "cutrec": LIBRARIES,
    "pipelines": {*LIBRARIES, "cutrec"},
}
TRAINING_MODULES = ["rec_data.sequences.batches", "rec_data.sequences.store", "rec_models", "rec_eval", "cce_kernels"]
"""What must run where polars is not installed: these modules, and of a package each one."""


@cache
def modules() -> dict[str, Path]:
    """The file of every module, by its dotted name."""
    sources = [*sorted((ROOT / "packages").glob("*/src")), ROOT]
    files = {path: source for source in sources for name in ARROWS for path in (source / name).rglob("*.py")}
    names = {path: ".".join(path.relative_to(source).with_suffix("").parts) for path, source in files.items()}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


@cache
def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; a submodule counts as itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else str(node.module) for name in names}
    return found


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def package(name: str) -> dict[str, Path]:
    files = {module: path for module, path in modules().items() if module.split(".")[0] == name}
    assert files, f"no package {name}"
    return files


def shortest_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names along a shortest cycle, the first one repeated at the end; empty without a cycle."""
    cycles = []
    for start in sorted(graph):
        chains, seen = [[start]], set()
        for chain in chains:
            for name in sorted(graph.get(chain[-1], ())):
                if name == start:
                    cycles.append([*chain, start])
                elif name not in seen:
                    seen.add(name)
                    chains.append([*chain, name])
    return min(cycles, key=len, default=[])


def file_graph() -> dict[str, set[str]]:
    known = modules()
    return {name: (imports(path) & known.keys()) - {name} for name, path in known.items()}


def test_no_import_cycle_between_files():
    chain = shortest_cycle(file_graph())
    assert not chain, " -> ".join(chain)


def test_no_import_cycle_between_the_children_of_any_folder():
    """Files and sub-folders of a folder are its children; a file in a sub-folder counts as the sub-folder."""
    levels: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    behind: dict[tuple[str, str, str], str] = {}
    known = modules()
    for importer, imported in file_graph().items():
        ours = known[importer].relative_to(ROOT).parts
        for name in imported:
            theirs = known[name].relative_to(ROOT).parts
            depth = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            folder, a, b = "/".join(ours[:depth]), ours[depth], theirs[depth]
            levels[folder][a].add(b)
            behind[folder, a, b] = f"{a} -> {b}: {importer} imports {name}"
    chains = {folder: shortest_cycle(graph) for folder, graph in levels.items()}
    wrong = {f: [behind[f, a, b] for a, b in pairwise(chain)] for f, chain in chains.items() if chain}
    assert not wrong, "\n".join(f"in {folder}/: {'; '.join(reasons)}" for folder, reasons in wrong.items())


@pytest.mark.parametrize("name", ARROWS)
def test_packages_import_only_the_siblings_they_may(name: str):
    wrong = {
        module: found
        for module, path in package(name).items()
        if (found := top_level(path) & (ARROWS.keys() - {name} - ARROWS[name]))
    }
    assert wrong == {}


@pytest.mark.parametrize("name", sorted(ARROWS.keys() - {"pipelines"}))
def test_every_arrow_is_a_declared_dependency(name: str):
    project = tomllib.loads((ROOT / "packages" / name.replace("_", "-") / "pyproject.toml").read_text())["project"]
    declared = {Requirement(line).name.replace("-", "_") for line in project["dependencies"]}
    assert declared & ARROWS.keys() == ARROWS[name]


def test_cce_kernels_needs_torch_and_triton_only():
    for module, path in package("cce_kernels").items():
        foreign = top_level(path) - sys.stdlib_module_names - {"torch", "triton", "cce_kernels"}
        assert foreign == set(), module


def test_training_and_ranking_run_without_polars():
    """Neither these modules nor any module of ours that they import."""
    known = modules()
    todo = [module for module in known if any(f"{module}.".startswith(f"{name}.") for name in TRAINING_MODULES)]
    reached = set()
    while todo:
        module = todo.pop()
        if module in known and module not in reached:
            reached.add(module)
            todo += [*imports(known[module]), module.rpartition(".")[0]]  # importing a module runs its package
    assert reached >= set(TRAINING_MODULES)
    assert [module for module in sorted(reached) if "polars" in top_level(known[module])] == []
