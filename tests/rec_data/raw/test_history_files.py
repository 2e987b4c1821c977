"""Files of histories: events or lists, hand-worked rows, and what is refused."""

import datetime as dt

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_data.config import Columns, Download, Events
from rec_data.errors import DataError
from rec_data.raw.history_files import HistoryLog, write_history_log
from rec_data.sequences.histories import Histories, read_histories

ITEMS = pa.array([10, 20, 30])


def write(path, rows, columns=("user_id", "item_id", "timestamp")):
    pl.DataFrame(rows, schema=list(columns), orient="row").write_parquet(path)
    return path


def by_user(found: Histories) -> dict[object, list[int]]:
    store, offsets = found.store, found.store.offsets.tolist()
    return {
        found.user_names[int(user)].as_py(): store.items[offsets[row] : offsets[row + 1]].tolist()
        for row, user in enumerate(store.user_ids)
    }


def from_file(folder, columns=Columns(), **options):  # noqa: B008
    (path,) = [path for path in folder.iterdir() if path.stem == "h"]
    found = write_history_log(path.name, folder / "log.parquet", root=folder, columns=columns, **options)
    histories = read_histories(folder / "log.parquet", ITEMS, tie_seed=0)
    return by_user(histories), found.empty_users, found.in_row_order


def test_a_file_of_events_without_times_is_in_row_order(tmp_path):
    (tmp_path / "h.csv").write_text("item_id;user_id\n30;5\n10;5\n20;6\n")
    assert from_file(tmp_path) == ({5: [2, 0], 6: [1]}, 0, True)


def test_a_file_of_events_with_times_is_in_time_order(tmp_path):
    (tmp_path / "h.csv").write_text("who,what,when\na,30,2024-01-02\na,10,2024-01-01\n")
    assert from_file(tmp_path, Columns("who", "what", "when"), named={"timestamp"}) == ({"a": [0, 2]}, 0, False)


def test_a_column_of_times_that_was_asked_for_is_not_done_without(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id,timestamp\n5,30,2\n5,10,1\n")
    says = r"has no column 'timestmp' \(for timestamp\); its columns are: user_id, item_id, timestamp"
    with pytest.raises(DataError, match=says):
        from_file(tmp_path, Columns(timestamp="timestmp"), named={"timestamp"})


def test_lists_take_no_column_of_times(tmp_path):
    write(tmp_path / "h.parquet", [("a", [30, 10], 5)])
    for needed in ({"timestamp"}, ()):
        with pytest.raises(
            DataError, match="column 'timestamp' holds times; allowed: lists in order, oldest item first"
        ):
            from_file(tmp_path, named=needed)
    assert from_file(tmp_path, Columns(timestamp=None)) == ({"a": [2, 0]}, 0, False)


@pytest.mark.parametrize("name", ["timestamp", "when"])
def test_lists_take_no_lists_of_times(tmp_path, name):
    days = [dt.date(2024, 1, 2), dt.date(2024, 1, 1)]
    write(tmp_path / "h.parquet", [("a", [30, 10], days)], ("user_id", "item_id", name))
    with pytest.raises(DataError, match=f"column '{name}' holds times; allowed: .* or one event per row"):
        from_file(tmp_path)


def test_several_lists_of_a_user_are_joined_and_counted(tmp_path):
    rows = [("a", [30]), ("b", [20]), ("a", [10, 20]), ("b", [])]
    write(tmp_path / "h.parquet", rows, ("user_id", "item_id"))
    assert from_file(tmp_path)[0] == {"a": [2, 0, 1], "b": [1]}
    found = write_history_log("h.parquet", tmp_path / "log.parquet", root=tmp_path, columns=Columns())
    assert found.joined_users == 1


def test_ratings_are_filtered_as_in_the_log(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id,stars,kind\n5,30,4,buy\n5,10,2,buy\n6,10,1,buy\n7,10,5,see\n")
    columns, options = Columns(rating="stars"), {"root": tmp_path, "columns": Columns(rating="stars")}
    assert from_file(tmp_path, columns, settings=Download(min_rating=4))[0] == {5: [2], 7: [0]}
    both = Download(min_rating=4, events=Events(column="kind", keep=("buy",)))
    found = write_history_log("h.csv", tmp_path / "log.parquet", settings=both, **options)
    assert found == HistoryLog(
        0, in_row_order=True, other_events=1, low_ratings=2, users_without_rows=2, rated=True, of_kinds=True
    )
    (tmp_path / "h.csv").write_text("user_id,item_id\n5,30\n")
    assert not write_history_log("h.csv", tmp_path / "log.parquet", settings=both, **options).rated


@pytest.mark.parametrize(
    ("column", "cure"), [("event", "-S download.events.column=kind"), ("rating", "-S download.columns.rating=rates")]
)
def test_a_column_that_was_named_for_the_file_is_not_done_without(tmp_path, column, cure):
    (tmp_path / "h.csv").write_text("user_id,item_id,rates,kind\n5,30,5,see\n5,20,1,buy\n")
    options = {"settings": Download(events=Events(column="kid", keep=("buy",))), "columns": Columns(rating="rate")}
    assert from_file(tmp_path, **options) == ({5: [2, 1]}, 0, True)
    with pytest.raises(DataError, match=rf"\({cure}\)$"):
        from_file(tmp_path, named={column}, **options)


def test_histories_of_other_events_only(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id,kind\n5,30,see\n")
    settings = Download(events=Events(column="kind", keep=("buy", "cart")))
    with pytest.raises(DataError, match=r"'h.csv': none of its 1 events is one of download.events.keep \(buy, cart\)"):
        from_file(tmp_path, settings=settings)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a", [30]), ("b", [10, 20, None])], "column 'item_id' has 1 list with an empty value (FILE, row 2); "),
        (
            [("a", []), ("b", [10, 20]), ("c", [10, None]), ("d", [None])],
            "column 'item_id' has 2 lists with empty values (first in FILE, row 3); allowed: none",
        ),
        ([("a", [10, 20, 30]), (None, [10])], "column 'user_id' has 1 empty value (FILE, row 2); allowed: none"),
    ],
)
def test_holes_in_lists_are_found_by_the_row_of_the_file(tmp_path, rows, says):
    pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.List(pl.Int64)}, orient="row").write_parquet(
        tmp_path / "h.parquet"
    )
    with pytest.raises(DataError) as caught:
        from_file(tmp_path)
    assert says.replace("FILE", str(tmp_path / "h.parquet")) in str(caught.value)


def test_other_values_of_lists_are_found_by_the_row_of_the_file_too(tmp_path):
    write(tmp_path / "h.parquet", [("a", [10.0, 20.0]), ("b", []), ("c", [10.0, 20.5])], ("user_id", "item_id"))
    with pytest.raises(DataError, match=r"'h.parquet': .*\(\S+/h.parquet, row 3: 20.5\)"):
        from_file(tmp_path)


def test_a_file_of_lists_keeps_their_order_and_counts_the_empty_ones(tmp_path):
    rows = [("a", [30, 10, 99]), ("b", []), ("c", None), ("d", [20])]
    write(tmp_path / "h.parquet", rows, ("user_id", "item_id"))
    assert from_file(tmp_path) == ({"a": [2, 0], "d": [1]}, 2, False)


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.string(), pa.decimal128(38, 0)], ids=str)
def test_lists_of_a_fixed_size(tmp_path, kind):
    items = pa.array([[30, 10], [99, 20]], pa.list_(pa.int64())).flatten()
    items = pa.FixedSizeListArray.from_arrays(items.cast(kind), 2)
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": items}), tmp_path / "h.parquet")
    assert from_file(tmp_path) == ({1: [2, 0], 2: [1]}, 0, False)


def test_lists_in_parts_of_different_types(tmp_path):
    wide = pa.array([[30, 10]], pa.list_(pa.int64()))
    parts = (wide, pa.array([[20]], pa.list_(pa.int8())), pa.array([[30]], pa.list_(pa.int64(), 1)), wide[:0])
    for number, items in enumerate(parts):
        users = pa.array([number] * len(items))
        pq.write_table(pa.table({"user_id": users, "item_id": items}), tmp_path / f"{number}.parquet")
    write_history_log("?.parquet", tmp_path / "log.parquet", root=tmp_path, columns=Columns())
    assert by_user(read_histories(tmp_path / "log.parquet", ITEMS, tie_seed=None)) == {0: [2, 0], 1: [1], 2: [2]}


def test_lists_that_are_all_empty(tmp_path):
    pq.write_table(
        pa.table({"user_id": [1, 2], "item_id": pa.array([[], None], pa.list_(pa.int64()))}), tmp_path / "h.parquet"
    )
    with pytest.raises(DataError, match=r"all lists are empty \(2\); allowed: at least one with items"):
        from_file(tmp_path)


@pytest.mark.parametrize("text", ["NaN", "None"])
def test_texts_for_a_missing_id_are_refused_as_in_a_log(tmp_path, text):
    (tmp_path / "h.csv").write_text(f"user_id,item_id\n1,10\n{text},20\n")
    with pytest.raises(DataError, match=rf"1 text that stands for a missing id \(.*/h.csv, line 3: '{text}'\)"):
        from_file(tmp_path)
    assert from_file(tmp_path, settings=Download(null_values=())) == ({"1": [0], text: [1]}, 0, True)


def test_times_in_the_format_of_the_log(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id,timestamp\n1,10,02.01.2024\n1,20,01.02.2023\n")
    assert from_file(tmp_path, settings=Download(time_format="%d.%m.%Y")) == ({1: [1, 0]}, 0, False)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("user_id,thing", r"histories 'h.csv' has no column 'item_id'; its columns are: user_id, thing"),
        ("person,item_id", r"histories 'h.csv' has no column 'user_id';"),
    ],
)
def test_a_missing_column_is_named(tmp_path, header, says):
    (tmp_path / "h.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(DataError, match=says):
        from_file(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"histories 'h.csv': no file"):
        write_history_log("h.csv", tmp_path / "log.parquet", root=tmp_path, columns=Columns())


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_folder(tmp_path, name):
    with pytest.raises(DataError, match=f"histories: found '{name}', allowed: a path, a folder or a glob"):
        write_history_log(name, tmp_path / "log.parquet", root=tmp_path, columns=Columns())
