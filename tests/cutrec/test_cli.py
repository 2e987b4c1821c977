"""The command line: help without work, one line for mistakes, and no need of DVC, git or torch to start."""

import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cutrec
from cutrec import cli
from cutrec.errors import ConfigError, StageError, UsageError
from tests.small_log import ROOT, small_log

STAGES = ("source", "download", "split", "train", "evaluate", "report")


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_runs_nothing(command: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.execute([*([command] if command else []), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: cutrec ")
    assert all(name in text for name in cli.COMMANDS) or command
    assert not any(inside in text for inside in ("``", "<function", "<class", "| null"))
    assert re.search(rf"\n\nExamples?:\n    uv run cutrec {command or ''}.*\n(    uv run .*\n)*$", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected \"command\" to be one of"),
        (["recomend"], "command: invalid choice: 'recomend' (choose from"),
        (["compare", "a"], "the following arguments are required"),
        *[([name, *rest, "--nope"], "unrecognized arguments: --nope") for name, rest in
          (("describe", []), ("recommend", []), ("compare", ["a", "b"]))],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(arguments: list[str], says: str):
    with pytest.raises(UsageError) as caught:
        cli.execute(arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [["compare", "a", "b", "--out", "file/x.csv"], ["describe", "--out", "file"], ["recommend", "--out", "file/x.csv"]],
    ids=lambda arguments: arguments[0],
)
def test_a_bad_place_for_the_output_is_found_before_the_work(arguments: list[str], workplace):
    (workplace({}) / "file").write_text("")
    with pytest.raises(
        StageError, match=r"^file cannot be written to \(File exists\), allowed: another folder, by --out$"
    ):
        cli.execute(arguments)


def test_a_command_works_in_every_folder_with_paths_from_there(
    workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = workplace({"dataset": "log.parquet"})
    small_log().write_parquet(root / "log.parquet")  # the paths in params.yaml are relative to the root
    below = root / "docs" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    cli.execute(["describe", "--out", "mine"])
    assert (below / "mine" / "describe.json").is_file()
    assert capsys.readouterr().out.endswith("picture: docs/deep/mine/describe.png\n")
    cli.execute(["describe"])
    assert (root / "data" / "describe" / "describe.json").is_file()
    assert Path.cwd() == below


def test_outside_of_a_checkout_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for command in ("describe", "recommend", "plan"):
        with pytest.raises(
            ConfigError, match=f"no such file in {tmp_path} or above it, allowed: .* checkout of CutRec"
        ):
            cli.execute([command])


def run_python(program: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_command_line_starts_without_torch():
    """Torch takes seconds to import; stages that find a wrong argument and the report do not need it either."""
    program = f"""
import json, runpy, sys
from cutrec import cli
def code(run):
    try:
        run()
    except SystemExit as ended:
        return ended.code
sys.argv = ["cutrec", "--help"]
codes = [code(cli.main)]
for stage in {STAGES}:
    for option in ("--help", "--nope"):
        sys.argv = [stage, option]
        codes.append(code(lambda: runpy.run_module("pipelines." + stage, run_name="__main__")))
import cutrec.workflow.report
loaded = [name for name in ("torch", "dvc", "polars", "matplotlib") if name in sys.modules]
print(json.dumps([codes, loaded]), file=sys.__stderr__)
print(json.dumps([codes, loaded]))
"""
    codes, loaded = json.loads(run_python(program).splitlines()[-1])
    assert codes == [0, *[0, 2] * len(STAGES)]
    assert loaded == []


def test_everything_imports_without_dvc_and_git(tmp_path: Path):
    names = [module.name for module in pkgutil.walk_packages(cutrec.__path__, "cutrec.")]
    assert len(names) > 25
    program = f"""
import importlib, sys
sys.modules["dvc"] = None
for name in {names}:
    importlib.import_module(name)
from cutrec.environment import read_code, revision
from cutrec.errors import StageError
from cutrec.reporting.compare import read_run
print(read_code().unknown, revision())
try:
    read_run("some-experiment")
except StageError as error:
    print(error)
"""
    said = run_python(program, PATH=str(tmp_path)).splitlines()
    assert said[0] == "git is not installed here None"
    assert said[1].startswith("some-experiment: found no folder of this name, and DVC is not installed")
