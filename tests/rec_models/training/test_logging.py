import io
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rec_models.training import logging
from rec_models.training.logging import Progress, ResultsFolder

ROWS = [
    {"epoch": 1, "step": 10, "train_loss": 2.5, "tokens": 100, "validation_ndcg@10": 0.25},
    {"epoch": 2, "step": 20, "train_loss": 1.5, "tokens": 100, "validation_ndcg@10": 0.5},
]


def test_every_row_is_logged_once(tmp_path):
    folder = ResultsFolder(tmp_path / "out")
    for count in (1, 2, 2):
        folder.write_history(ROWS[:count])
    log = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert set(log.Tags()["scalars"]) == {"train/loss", "train/tokens", "validation/ndcg_at_10"}
    assert [(point.step, point.value) for point in log.Scalars("validation/ndcg_at_10")] == [(1, 0.25), (2, 0.5)]
    assert (tmp_path / "out" / "history.csv").read_text().splitlines() == [
        "epoch,step,train_loss,tokens,validation_ndcg@10",
        "1,10,2.5,100,0.25",
        "2,20,1.5,100,0.5",
    ]


def test_a_resumed_run_logs_what_came_before(tmp_path):
    ResultsFolder(tmp_path).write_history(ROWS)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in log.Scalars("train/loss")] == [1, 2]


def test_losses_of_steps_are_logged_once_at_their_steps(tmp_path):
    folder = ResultsFolder(tmp_path)
    losses = [3.0, 2.5, 2.0, 1.5]
    for row, step in ((1, 2), (2, 4), (2, 4)):
        folder.write_history(ROWS[:row])
        folder.write_step_losses(losses[:step], 10 + step)  # a state of an earlier version has not kept the first ten
    folder.close()
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in log.Scalars("train/step_loss")] == list(enumerate(losses, start=11))


def test_a_second_run_into_one_folder_leaves_its_own_curves_alone(tmp_path):
    ResultsFolder(tmp_path).write_history(ROWS)
    again = ResultsFolder(tmp_path)
    for count in (1, 2):
        again.write_history([{**row, "train_loss": row["train_loss"] + 1} for row in ROWS[:count]])
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in log.Scalars("train/loss")] == [(1, 3.5), (2, 2.5)]


def test_the_model_is_copied_whole(tmp_path):
    (tmp_path / "best-3.safetensors").write_bytes(b"weights")
    folder = ResultsFolder(tmp_path / "out")
    folder.write_history([])
    folder.take_model(tmp_path / "best-3.safetensors")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"


EPOCH = {"train_loss": 1.23456, "tokens_per_second": 12345.6, "train_seconds": 7.89}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_epoch_is_one_line_away_from_a_terminal(capsys):
    shown = Progress(20, 4, enabled=True)
    shown.start_epoch(2, 0, 10)
    shown.update(5, 10, 2.0, 100.0, 0.5)
    shown.end_epoch(EPOCH, 0.0612, 0)
    expected = "epoch 3 of at most 20: loss 1.2346, validation ndcg@10 0.0612 (best), 12,346 tokens/s, 7.9 s"
    assert capsys.readouterr().err == f"{expected}; stops in 4 (32 s) unless it improves, at most 2 min left\n"


def test_short_epochs_share_a_line_and_the_last_one_has_its_own(capsys):
    shown = Progress(200, 3, enabled=True)
    for epoch, bad_epochs in enumerate((0, 0, 1, 2, 3)):
        shown.start_epoch(epoch, 0, 10)
        shown.end_epoch({**EPOCH, "train_seconds": 0.01}, 0.05, bad_epochs)
    assert [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "epoch 1 of at most 200", "epoch 5 of at most 200",
    ]  # fmt: skip


def test_the_time_left_counts_validation(capsys, monkeypatch):
    monkeypatch.setattr(logging, "_LINE_SECONDS", 0.0)
    shown = Progress(200, 10, enabled=True)
    for epoch, bad_epochs in ((9, 0), (10, 1), (198, 2)):
        shown.start_epoch(epoch, 0, 10)
        shown.end_epoch({**EPOCH, "train_seconds": 40.0, "validation_seconds": 20.0}, 0.05, bad_epochs)
    assert [line.partition("; ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "stops in 10 (10 min) unless it improves, at most 3.2 h left",
        "stops in 9 (9 min) unless it improves, at most 3.1 h left",
        "at most 60 s left",
    ]
    shown.start_epoch(100, 0, 10)
    shown.end_epoch(EPOCH, None, 0)
    assert "loss 1.2346, 12,346 tokens/s, 7.9 s; 78 min left" in capsys.readouterr().err


def test_a_long_epoch_says_something_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(logging, "_QUIET_SECONDS", 0.0)
    shown = Progress(20, 4, enabled=True)
    shown.start_epoch(0, 0, 10)
    shown.update(5, 10, 2.0, 1000.0, 1.5)
    assert capsys.readouterr().err == "epoch 1 of at most 20: batch 5/10, loss 2.0000, tokens/s 1,000, peak GiB 1.50\n"


def test_a_terminal_gets_a_bar_that_starts_where_a_resumed_epoch_does(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Progress(3, 4, enabled=True)
    shown.start_epoch(1, 4, 10)
    assert "4/10" in screen.getvalue()
    shown.update(10, 10, 2.5, 1000.0, 0.5)
    shown.end_epoch(EPOCH, None, 0)
    assert "epoch 2 of at most 3: loss 1.2346, 12,346 tokens/s" in screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_are_silent(monkeypatch, terminal):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Progress(3, 4, enabled=False)
    shown.start_epoch(0, 0, 10)
    shown.update(5, 10, 2.0, 1000.0, 0.5)
    shown.end_epoch(EPOCH, 0.1, 0)
    assert screen.getvalue() == ""
