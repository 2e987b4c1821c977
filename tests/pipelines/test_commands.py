"""The modules ``python -m pipelines.NAME``: each answers, and none is imported by another one."""

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

from cutrec import cli
from cutrec.errors import StageError
from tests.small_log import ROOT

STAGES = ("download", "evaluate", "report", "source", "split", "train")
DEPRECATED = ("compare", "describe", "recommend")
PAPER = ("grid", "measure", "plan", "study", "tables")
ENTRIES = (
    *STAGES, *DEPRECATED, *PAPER, "paper.grid", "paper.tables",
    "study prepare", "study run", "study trial", "study summarise",
)  # fmt: skip


def test_nothing_imports_a_command():
    commands = {f"pipelines.{name}" for name in (*STAGES, *DEPRECATED, *PAPER) if name != "study"}
    wrong = {}
    for path in (ROOT / "pipelines").rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
        if found := commands & (names | {str(node.module) for node in imports}):
            wrong[path.name] = found
    assert wrong == {}


def start(module: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run ``python -m MODULE ARGUMENTS`` in this process; return the exit code."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__")
    return caught.value.code


@pytest.mark.parametrize(
    "arguments", [*ENTRIES, *(f"study {verb}" for verb in ("prepare", "run", "trial", "summarise"))]
)
def test_help_runs_nothing(
    arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    assert start(*f"pipelines.{arguments} --help".split(), monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert not any(inside in text for inside in ("``", "<function", "<class", "| null"))
    assert re.search(r"\n\nExamples?:\n(    uv run .*\n)+$", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_no_arguments(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    assert start(f"pipelines.{name}", "--nope", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --nope; --help lists the options\n"


@pytest.mark.parametrize("name", DEPRECATED)
def test_an_old_name_is_the_command_with_a_note(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    passed: list[list[str]] = []
    monkeypatch.setattr(cli, "execute", passed.append)
    assert start(f"pipelines.{name}", "--k", "3", monkeypatch=monkeypatch) == 0
    assert passed == [[name, "--k", "3"]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"note: python -m pipelines.{name} will be removed, use: uv run cutrec {name}"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("measure", ["--out", "file/x.csv"]),
        ("plan", ["--check", "a.csv", "--page", "file/x.md"]),
        ("study", ["run", "--data", ".", "--rows", "file/x.jsonl"]),
        ("tables", ["--no-dvc", "--out", "file"]),
    ],
)
def test_a_bad_place_for_the_output_is_found_before_the_work(name: str, arguments: list[str], workplace):
    (workplace({}) / "file").write_text("")
    module = "pipelines.study.__main__" if name == "study" else f"pipelines.{name}"
    with pytest.raises(
        StageError, match=r"^file cannot be written to \(File exists\), allowed: another folder, by --(out|page|rows)$"
    ):
        importlib.import_module(module).main(arguments)
