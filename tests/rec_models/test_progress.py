import io
import sys

import pytest

from rec_models.training import logging as progress
from rec_models.training.logging import Progress

ROW = {"train_loss": 1.23456, "tokens_per_second": 12345.6, "train_seconds": 7.89}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_epoch_is_one_line_away_from_a_terminal(capsys):
    shown = Progress(20, enabled=True)
    shown.start_epoch(2, 0, 10)
    shown.update(5, 10, 2.0, 100.0, 0.5)
    shown.end_epoch(ROW, 0.0612, best=True)
    expected = "epoch 3/20: loss 1.2346, validation ndcg@10 0.0612 (best), 12,346 tokens/s, 7.9 s\n"
    assert capsys.readouterr().err == expected


def test_a_long_epoch_says_something_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    shown = Progress(20, enabled=True)
    shown.start_epoch(0, 0, 10)
    shown.update(5, 10, 2.0, 1000.0, 1.5)
    assert capsys.readouterr().err == "epoch 1/20: batch 5/10, loss 2.0000, tokens/s 1,000, peak GiB 1.50\n"


def test_a_terminal_gets_a_bar_that_starts_where_a_resumed_epoch_does(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Progress(3, enabled=True)
    shown.start_epoch(1, 4, 10)
    assert "4/10" in screen.getvalue()
    shown.update(10, 10, 2.5, 1000.0, 0.5)
    shown.end_epoch(ROW, None, best=True)
    assert "epoch 2/3: loss 1.2346, 12,346 tokens/s" in screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_are_silent(monkeypatch, terminal):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Progress(3, enabled=False)
    shown.start_epoch(0, 0, 10)
    shown.update(5, 10, 2.0, 1000.0, 0.5)
    shown.end_epoch(ROW, 0.1, best=True)
    assert screen.getvalue() == ""
