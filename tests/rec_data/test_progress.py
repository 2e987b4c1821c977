"""Progress of long operations, in a terminal and in a file."""

import pytest

from rec_data import progress


def test_a_log_file_gets_a_few_states(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)
    with progress.progress("ranking", 20_000, "user") as bar:
        for _ in range(20_000):
            bar.update()
    written = capsys.readouterr().err
    assert "ranking: 100%" in written
    assert written.count("\r") <= 3


def test_a_short_operation_shows_nothing(capsys: pytest.CaptureFixture[str]):
    with progress.progress("ranking", 10, leave=False) as bar:
        bar.update(10)
    assert "ranking" not in capsys.readouterr().err.replace("\r", "")
