"""The commands ``python -m pipelines.NAME``: each starts, and none is a part of another one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_log import ROOT

SHARED = {"__init__", "params", "stage"}
COMMANDS = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py") if path.stem not in SHARED)
VERBS = ("compare", "describe", "grid", "measure", "plan", "recommend", "study", "tables")


def test_the_commands_are_those_that_pages_and_stages_name():
    stages = ("download", "evaluate", "report", "source", "split", "train")
    assert sorted([*stages, *VERBS]) == COMMANDS


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_imports_a_command(path: Path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not _only_for_types(node, path):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert not found & {f"pipelines.{name}" for name in COMMANDS}


def _only_for_types(node: ast.ImportFrom, path: Path) -> bool:
    blocks = [block for block in ast.walk(ast.parse(path.read_text())) if isinstance(block, ast.If)]
    guarded = [block for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING"]
    return any(block.lineno < node.lineno <= (block.end_lineno or 0) for block in guarded)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_tells_its_options(name: str):
    ran = subprocess.run(
        [sys.executable, "-m", f"pipelines.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"usage: python -m pipelines.{name} ")
    for inside in ("``", "<function", "<class", "pipelines.models", "| null"):
        assert inside not in ran.stdout
