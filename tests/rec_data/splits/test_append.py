"""New days are appended to a log; what is not after its end, or of another kind, is counted or refused."""

from pathlib import Path

import polars as pl
import pytest

from rec_data.errors import DataError
from rec_data.splits.append import append_events

NOON = 1_700_000_000


def written(path: Path, rows: list[tuple[object, object, int]]) -> Path:
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def test_events_after_the_end_are_appended_and_the_others_counted(tmp_path: Path):
    log = written(tmp_path / "log.parquet", [("a", "7", NOON), ("b", "8", NOON + 10)])
    events = written(
        tmp_path / "new.parquet", [("b", 9, NOON + 11), ("c", 7, NOON + 10), ("b", 8, NOON + 10), ("c", 7, NOON + 12)]
    )
    found = append_events(log, events, tmp_path / "out.parquet")
    assert found == (2, 2, 1, NOON + 10, 1, 2)
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [
        ("a", "7", NOON), ("b", "8", NOON + 10), ("b", "9", NOON + 11), ("c", "7", NOON + 12),
    ]  # fmt: skip


def test_nothing_is_written_without_new_events(tmp_path: Path):
    log = written(tmp_path / "log.parquet", [("a", "7", NOON), ("b", "8", NOON + 10)])
    assert append_events(log, log, tmp_path / "out.parquet").new == 0
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("log", "events", "says"),
    [
        ([(1, 2, 3), (1, 3, 4)], [(1, 2, 5)], "timestamp: found times up to 4 in the model's log, which are positions"),
        (
            [(1, 2, NOON)],
            [(1, 2, 1000 * NOON)],
            r"timestamp: found times up to 1700000000000 \(ms\) .*, allowed: .* s,",
        ),
        ([(1, 2, NOON)], [(1, "x7", NOON + 1)], "item_id: found 'x7' in the new events, allowed: integers"),
    ],
)
def test_events_of_another_kind_are_one_line(tmp_path: Path, log: list, events: list, says: str):
    first, second = written(tmp_path / "log.parquet", log), written(tmp_path / "new.parquet", events)
    with pytest.raises(DataError, match=f"^{says}"):
        append_events(first, second, tmp_path / "out.parquet")
