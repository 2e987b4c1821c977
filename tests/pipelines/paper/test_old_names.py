"""The old names of the commands: they work, with a note on stderr."""

import runpy
import sys

import pytest

from tests.small_log import ROOT


@pytest.mark.parametrize("name", ["grid", "tables"])
def test_an_old_name_is_the_command_with_a_note(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, "--table", "99"])
    monkeypatch.delitem(sys.modules, f"pipelines.{name}", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"pipelines.{name}", run_name="__main__")
    note, error = capsys.readouterr().err.splitlines()
    assert caught.value.code == 1
    assert note == f"note: python -m pipelines.{name} will be removed, use: python -m pipelines.paper.{name}"
    assert error.startswith("error: table: found 99, allowed: 1, 2, 3")
