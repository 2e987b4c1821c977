"""``cutrec plan``: the point of params.yaml with changes, on one log or several."""

from argparse import ArgumentError
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from cutrec.commands import plan
from tests.small_log import ROOT


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in-process; returns what it printed."""
    monkeypatch.chdir(ROOT)

    def go(*arguments: str) -> str:
        parser = ArgumentParser(exit_on_error=False)
        plan.add_arguments(parser)
        plan.run(parser.parse_args(arguments))
        return capsys.readouterr().out

    return go


def test_changes_apply_to_each_log(run: Any):
    sizes = ("loss=ce", "-S", "batch_size=128", "-S", "max_seq_len=64")
    printed = run(*sizes, "--dataset", "beauty", "--dataset", "twin:gowalla@0.5")
    assert "| beauty: sasrec, ce, 128 x 64           | 176,450 |" in printed
    assert "| twin:gowalla@0.5: sasrec, ce, 128 x 64 | 154,481 |" in printed
    assert "GiB of a GPU with 80; memory: 145 points on NVIDIA H100" in printed


def test_what_does_not_fit_is_marked(run: Any):
    sizes = ("batch_size=128", "max_seq_len=64", "backbone.hidden=64")
    lines = run("loss=ce", *sizes, "--dataset", "beauty", "--dataset", "zvuk", "--gpu", "5").splitlines()[2:4]
    assert [" yes |" in lines[0], "  NO |" in lines[1]] == [True, True]


def test_several_gpus_have_a_row_for_each_place_of_the_table(run: Any):
    sizes = ("loss=cce_neg", "num_negatives=255", "batch_size=128", "max_seq_len=64", "train.cuda_graphs=true")
    rows = [line.split("|") for line in run(*sizes, "--dataset", "zvuk", "--devices", "4").splitlines()[2:4]]
    assert [row[1].split(", ")[-1].strip() for row in rows] == ["replicated", "sharded"]
    whole, quarter = (float(row[4]) for row in rows)  # the state
    assert quarter == pytest.approx(whole / 4, rel=0.05)
    assert float(rows[1][8]) < float(rows[0][8])  # the peak
    lines = run(*sizes[1:], "loss=ce", "train.cuda_graphs=false", "--dataset", "zvuk", "--devices", "4").splitlines()
    assert "4 GPUs, replicated" in lines[2]
    assert "sharded" not in "".join(lines)


def test_what_is_wrong_is_named(run: Any):
    with pytest.raises(ValueError, match="loss: found 'cee'"):
        run("-S", "loss=cee")
    with pytest.raises(ArgumentError, match="--gpu: found 0, allowed: a number above 0"):
        run("--gpu", "0")
