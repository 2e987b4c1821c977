"""Text files as people have them: every record is read, or the file is refused with its line and the cure."""

import gzip
import re
from dataclasses import asdict

import polars as pl
import pytest
from dvc.utils.hydra import to_hydra_overrides
from pydantic import ValidationError

from rec_data.config import Columns, Download, Format, character
from rec_data.errors import DataError
from rec_data.raw import text_check, text_files, text_source
from rec_data.raw.files import require_columns
from rec_data.raw.history_files import write_history_log
from rec_data.raw.rows import PLACE
from rec_data.schema import ITEM, TIMESTAMP, USER
from rec_data.sources.fetch import fetch_log

EVENTS = [("ann", "p1", 1), ("ben", "p6", 2), ("cas", "p4", 3), ("ann", "p2", 4), ("ben", "p7", 5), ("cas", "p5", 6)]
TEXTS = ("plain", '40" wide', "plain", '12" wide', "plain", "plain")


def table(texts, write="{user},{item},{time},{text}\n", header="user_id,item_id,timestamp,text\n"):
    """A file of the events with a text in each row."""
    rows = zip(EVENTS, texts, strict=True)
    return header + "".join(write.format(user=u, item=i, time=t, text=text) for (u, i, t), text in rows)


def read(tmp_path, content, *, name="raw.csv", columns=Columns(), **form):  # noqa: B008
    """The rows of the log."""
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    settings = Download(columns=columns, format=Format(**form))
    fetch_log(name, tmp_path / "log.parquet", root=tmp_path, settings=settings)
    return pl.read_parquet(tmp_path / "log.parquet").rows()


def refused(tmp_path, content, **options):
    """The message of the refusal."""
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, **options)
    assert "\n" not in str(caught.value)
    for cure in re.findall(r"-S ([^\s),;]+)", str(caught.value)):
        to_hydra_overrides([cure])  # what DVC does with it
    return str(caught.value).removeprefix(f"file {tmp_path}/")


QUOTED_BEFORE = {"write": '{user},"{text}",{item},{time}\n', "header": "user_id,text,item_id,timestamp\n"}
TABS = {"write": "{user}\t{text}\t{item}\t{time}\n", "header": "user_id\ttext\titem_id\ttimestamp\n"}
READ = {
    "inch marks": table(TEXTS),
    "leading quotes": table(('"Best of', "a", '"Live at home', '"Quiet" nights, live', "", '"Best of'), **TABS),
    "backslashes": table([text.replace('"', '\\"') for text in TEXTS], **QUOTED_BEFORE),
    "inch marks beside quoted texts": table(('"a, b"', '12" mix', '"c ""d"""', "e", "f", "g")),
    "quoted well": table(("a, b", '40"" wide', "two\nlines", "\r\n", "", ",,,"), **QUOTED_BEFORE),
    "folders": table(("C:\\music", '"C:\\"', "\\N", "a", "b", "c")),
    "empty lines": table(TEXTS).replace("\n", "\n\n"),
    "carriage returns": table(TEXTS).replace("\n", "\r\n"),
    "no last line end": table(TEXTS).removesuffix("\n"),
}


@pytest.mark.parametrize("case", READ)
def test_all_records_are_read(tmp_path, case):
    assert read(tmp_path, READ[case]) == EVENTS
    write_history_log("raw.csv", tmp_path / "histories.parquet", root=tmp_path, columns=Columns())
    assert pl.read_parquet(tmp_path / "histories.parquet").rows() == EVENTS


REFUSED = {
    "one field more": (table(("a", "b", "Salt, fine", "c", "d", "e")), "raw.csv, line 4: found 5 fields, allowed: 4"),
    "one field less": (table(TEXTS).replace(",p7", ""), "raw.csv, line 6: found 3 fields, allowed: 4"),
    "quotes not doubled": (
        table(("a", 'a "b", c', "d", "e, f", "g", "h"), **QUOTED_BEFORE),
        "raw.csv, line 3: found text after the closing quote of field 2, allowed: doubled quotes",
    ),
    "quote not closed": (
        table(("a, b", "c", "d", "e", "f", "g"), **QUOTED_BEFORE) + 'eve,"x,p1,7\n',
        "raw.csv, line 8: found an opening quote of field 2 that is not closed, allowed: doubled quotes",
    ),
    "lone carriage return": (table(("a", "b", "c\rd", "e", "f", "g")), "raw.csv, line 4: found a carriage return"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_records_that_are_not_well_formed_are_refused_with_their_line(tmp_path, case):
    content, message = REFUSED[case]
    assert refused(tmp_path, content).startswith(message)
    with pytest.raises(DataError, match=message.partition(",")[0]):
        write_history_log("raw.csv", tmp_path / "histories.parquet", root=tmp_path, columns=Columns())


def test_quotes_that_may_join_lines_need_the_key(tmp_path):
    content = table(('"Best of', "a", 'Live"', "b", "c", "d"), **TABS)
    assert refused(tmp_path, content).startswith("raw.csv, line 2: found quotes around line ends that may be text")
    assert read(tmp_path, content, quote="none") == EVENTS
    assert read(tmp_path, content, quote='"') == [("ann", "p4", 3), *EVENTS[3:]]
    assert read(tmp_path, content, quote="double", separator="tab") == [("ann", "p4", 3), *EVENTS[3:]]
    content = table(('"a, b\n"', '12" mix', "c", "d", "e", "f"))
    assert refused(tmp_path, content).startswith("raw.csv, line 4: found quotes around line ends that may be text")
    assert read(tmp_path, content, quote='"') == EVENTS


VANISHING = """user_id,text,item_id,timestamp
a,"two
lines",p1,1700000000
a,"Best of,p2,1700000001
b,Live",p3,1700000002
b,x,p4,1700000003
"""


def test_lines_that_could_be_records_need_the_key_beside_texts_of_several_lines(tmp_path):
    for content in (VANISHING, VANISHING.replace("b,x,p4", 'b,"x\ny, z",p4'), VANISHING.replace("\n", "\r\n")):
        says = "raw.csv, line 4: found quotes around line ends that may be text, so that each line is a record"
        assert refused(tmp_path, content).startswith(says)
        assert [row[1] for row in read(tmp_path, content, quote="double")] == ["p1", "p3", "p4"]
    beside_quoted = VANISHING.replace("text,", "text,more,").replace(",p2", ",u,p2").replace(",p", ',"u, v",p')
    beside_quoted = beside_quoted.replace('u,"u, v",p2', "u,p2")
    at_the_end = VANISHING.replace("timestamp", "timestamp,more").replace("0000001", "0000001,u")
    at_the_end = re.sub("(?<=17000000(00|02|03))\n", ',"u, v"\\n', at_the_end)
    for content in (beside_quoted, at_the_end, at_the_end.replace("\n", "\r\n")):
        assert refused(tmp_path, content).startswith(says)
        assert [row[1] for row in read(tmp_path, content, quote="double")] == ["p1", "p3", "p4"]


def test_texts_of_several_lines_are_read(tmp_path):
    """Lines with as many fields as the file are no records if they have no number where the record has some."""
    texts = [f"Line {row}, one\nand, in, all, four\n\n{row}, fine" for row in range(6)]
    assert (
        read(
            tmp_path,
            table([f'"{text}"' for text in texts], **QUOTED_BEFORE | {"write": "{user},{text},{item},{time}\n"}),
        )
        == EVENTS
    )
    assert read(tmp_path, table(['"fine\nand, in, all, four"'] * 6)) == EVENTS


def test_quotes_that_may_be_text_need_the_key_where_they_are_read(tmp_path):
    content = table(("a", 'x"', "b", "c", "d", "e")).replace("p1", '"p1"')
    message = refused(tmp_path, content)
    assert message.startswith("raw.csv, line 3: found quote characters that can mean two things")
    assert message.endswith("allowed: -S download.format.quote=double or -S download.format.quote=none")
    assert read(tmp_path, content, quote='"') == EVENTS
    assert read(tmp_path, content, quote="none")[0] == ("ann", '"p1"', 1)


def test_escapes_that_may_be_text_need_the_key_where_they_are_read(tmp_path):
    content = table(TEXTS).replace("p1", 'p1\\"')
    assert "found escape characters that can mean two things" in refused(tmp_path, content)
    assert read(tmp_path, content, escape="none")[0] == ("ann", 'p1\\"', 1)
    assert read(tmp_path, content, escape="backslash")[0] == ("ann", 'p1"', 1)
    missing = table(TEXTS).replace("p1", "\\N")
    assert "line 2: found '\\\\N' in field 2, allowed: escaped quotes" in refused(tmp_path, missing, escape="\\")


def test_other_characters_by_key(tmp_path):
    content = table([text.replace("'", "~'") for text in ("it's", "a:b", "c", "d", "e", "f")], **QUOTED_BEFORE)
    content = content.replace(",", ":").replace('"', "'")
    assert read(tmp_path, content, separator=":", quote="single", escape="~") == EVENTS
    with pytest.raises(ValidationError, match="allowed: different characters for separator, quote and escape"):
        Format(separator=";", quote=";")
    with pytest.raises(ValidationError, match=r"allowed: auto, tab, space, .* or one ASCII character"):
        Format(separator="none")
    for wrong in ("::", "\n", "é", ""):
        with pytest.raises(ValidationError, match=r"allowed: auto, none, tab, space, comma, .* or one ASCII character"):
            Format(separator=wrong)


def test_characters_of_control_separate_fields(tmp_path):
    content = table(TEXTS)
    for mark in ("\x01", "\x1f"):  # Hive, and ASCII's own separator
        assert read(tmp_path, content.replace(",", mark)) == EVENTS
    for mark in (*map(chr, range(1, 9)), "\x0b", "\x0c", *map(chr, range(14, 32))):
        for name in (mark, f"x{ord(mark):02x}", f"\\x{ord(mark):02x}"):
            assert character(Format(separator=name).separator) == mark
    for mark in ("\x02", "\x0c", "\x1e"):
        assert read(tmp_path, content.replace(",", mark), separator=f"x{ord(mark):02x}") == EVENTS
    for wrong in ("\0", "x00", "x0a", "x0d", "x20", "\x7f"):
        with pytest.raises(ValidationError, match=r"backslash, x01 to x1f, or one ASCII character"):
            Format(separator=wrong)


def test_encodings(tmp_path):
    content = table(TEXTS).replace("p2", "thé")
    rows = [(user, item.replace("p2", "thé"), time) for user, item, time in EVENTS]
    assert read(tmp_path, content.encode("utf-16")) == rows
    assert read(tmp_path, content.encode("utf-32")) == rows
    assert read(tmp_path, content.encode("utf-8-sig")) == rows
    says = "raw.csv, line 5: found bytes that are not UTF-8, allowed: UTF-8, or the encoding by name"
    assert refused(tmp_path, content.encode("latin-1")).startswith(says)
    assert read(tmp_path, content.encode("latin-1"), encoding="latin-1") == rows
    says = "raw.csv, line 1: found zero bytes, as in UTF-16 without a byte order mark"
    assert refused(tmp_path, content.encode("utf-16-le")).startswith(says)
    assert read(tmp_path, content.encode("utf-16-le"), encoding="utf-16-le") == rows
    assert "cannot be read" in refused(tmp_path, content.encode("latin-1"), encoding="ascii")
    with pytest.raises(ValidationError, match="allowed: auto, or an encoding such as utf-8"):
        Format(encoding="utf-99")


def test_names_without_their_spaces_unless_they_are_given_so(tmp_path):
    content = table(TEXTS, header="user_id, item_id ,timestamp,\ttext\n")
    assert read(tmp_path, content) == EVENTS
    assert read(tmp_path, content, columns=Columns(item=" item_id ")) == EVENTS


def test_recbole(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\ttext:token_seq\n"
    content = table(TEXTS, "{user}\t{item}\t{time}.0\t{text}\n", header)
    assert read(tmp_path, content, name="shop.inter") == EVENTS
    says = refused(tmp_path, content, name="shop.tsv")
    assert "has no column 'user_id'; its columns are: user_id:token, " in says
    assert says.endswith("(-S download.columns.user=NAME)")


@pytest.mark.parametrize(
    ("column", "kind"), [("item_id", "token_seq"), ("timestamp", "float_seq"), ("user_id", "token_seq ")]
)
def test_sequences_of_recbole_are_refused(tmp_path, column, kind):
    header = "user_id:token\titem_id:token\ttimestamp:float\ttext:token_seq\n"
    typed = re.sub(rf"{column}:\w+", f"{column}:{kind}", header)
    content = table(TEXTS, "{user}\t{item} {item}\t{time}\t{text}\n", typed)
    says = refused(tmp_path, content, name="shop.inter")
    assert says.startswith(
        f"shop.inter, line 1: column '{column}' holds sequences ({kind.strip()}); allowed: one event per row"
    )
    names = {key.partition("_")[0]: key for key in ("user_id", "item_id", "timestamp")}
    types = {key: next(name for name in typed.strip("\n").split("\t") if name.startswith(names[key])) for key in names}
    columns = Columns(**{key: name.strip() for key, name in types.items()})
    assert refused(tmp_path, content, name="shop.csv", columns=columns).startswith(says.replace("inter", "csv"))


def test_files_without_header_take_positions(tmp_path):
    content = table(TEXTS, "{item};{text};{user};{time}\n", "")
    columns = {"user": 3, "item": 1, "timestamp": 4}
    assert read(tmp_path, content, columns=Columns(**columns), header=False) == EVENTS
    says = refused(tmp_path, content)
    assert says.startswith("raw.csv, line 1: found what looks like data (p1, plain, ann, 1), allowed: the names of col")
    assert "-S download.format.header=false -S download.columns.user=1" in says
    assert "has no column '5' (for timestamp)" in refused(
        tmp_path, content, columns=Columns(**columns | {"timestamp": 5}), header=False
    )
    with pytest.raises(
        ValidationError,
        match=r"allowed: names in columns, where user is 3; positions need -S download\.format\.header=false",
    ):
        Download(columns=Columns(**columns))
    with pytest.raises(ValidationError, match=r"allowed: positions from 1, .* in columns, where item is 'sku'"):
        Download(columns=Columns(**columns | {"item": "sku"}), format=Format(header=False))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Columns(user=0)


POSITIONS = {
    "1,1,5,1700000000": "user=1 item=2 timestamp=4 rating=3",
    "A2X,0001713353,5.0,1369699200": "user=1 item=2 timestamp=4 rating=3",
    "2024-01-31 10:00:00;ann;17": "user=2 item=3 timestamp=1",
    "1 31/01/2024 2": "user=1 item=3 timestamp=2",
    "1,2,3": "user=1 item=2 timestamp=N rating=3",
    "1 2": "user=1 item=2 timestamp=null",
}


@pytest.mark.parametrize("line", POSITIONS)
def test_positions_are_proposed_by_what_the_first_line_holds(tmp_path, line):
    says = refused(tmp_path, f"{line}\n{line}\n")
    assert " ".join(re.findall(r"-S download\.columns\.(\w+=\w+)", says)) == POSITIONS[line]
    assert ("null" in says) == ("=4" not in POSITIONS[line] and "2024" not in line)


HEADER = "user_id,item_id,timestamp\n"
ODD_FILES = {
    "title": (
        f"Sales of 2024\n{HEADER}a,p1,1\nb,p2,2\n",
        "raw.csv, line 1: found 3 fields separated by space, but the lines after it have 3 separated by comma; allowed",
    ),
    "title of one word": (
        f"Sales\n{HEADER}a,p1,1\n",
        "raw.csv, line 1: found 1 field separated by comma, but the lines",
    ),
    "title of one word above semicolons": (
        f"Sales\n{HEADER}a,p1,1\n".replace(",", ";"),
        "raw.csv, line 1: found 1 field ('Sales'), but the lines after it have 3 separated by semicolon; allowed: one",
    ),
    "row names": (
        "user_id item_id timestamp\n1 a p1 1\n2 b p2 2\n",
        "raw.csv, line 1: found 3 fields separated by space, but the lines after it have 4 separated by space; allowed",
    ),
    "one odd row": (
        f"{HEADER}a,p1,x,1\nb,p2,2\nc,p3,3\n",
        "raw.csv, line 2: found 4 fields, allowed: 3 as in the first",
    ),
    "mark only": ("\ufeff", "raw.csv is empty: found no line with text"),
    "line ends only": ("\n\r\n\n", "raw.csv is empty: found no line with text"),
    "workbook": (b"PK\x03\x04\x14\0\x06", "raw.csv: found a zip archive, as of an Excel workbook, allowed: text"),
    "parquet": (b"PAR1\x15\x04", "raw.csv: found a parquet file, allowed: .parquet"),
    "zero byte": (f"{HEADER}a,p1\0,1\n", "raw.csv, line 2: found a zero byte, as in a damaged or binary file, allowed"),
    "json": ('{"user_id": 1, "item_id": 2}\n' * 2, "raw.csv, line 1: found JSON, allowed: parquet, or delimited text"),
    "colons": (
        "user_id::item_id::timestamp\n1::2::3\n",
        "raw.csv, line 1: found 1 field ('user_id::item_id::timestamp'), allowed: fields with a separator between "
        "them, which is one character (tab, semicolon, pipe, comma, x01, x1f, space are looked for; another",
    ),
    "cyrillic": (
        "Пользователь,товар\n".encode("cp1251"),
        "raw.csv, line 1: found bytes that are not UTF-8, allowed: UTF-8, ",
    ),
    "space before quotes": (
        f'{HEADER}"a", "p1", "1"\n"b", "p2", "2"\n',
        "raw.csv, line 2: found a space between a separator and a quote, allowed: quotes next to the separator (remove",
    ),
    "space before quotes of ids only": (f'{HEADER}a, "p1",1\n', "raw.csv, line 2: found a space between a separator"),
    "space before quoted names": (
        '"user_id", "item_id", "timestamp"\n1,2,3\n',
        "raw.csv, line 1: found a space between",
    ),
    "space before quoted separators": (f'{HEADER}a, "p,1",1\n', "raw.csv, line 2: found a space between a separator"),
}


@pytest.mark.parametrize("case", ODD_FILES)
def test_files_of_other_forms_are_named(tmp_path, case):
    content, message = ODD_FILES[case]
    says = refused(tmp_path, content)
    assert says.startswith(message)
    assert case != "one odd row" or "download.format.separator" not in says
    assert case != "cyrillic" or "for example latin-1, cp1251, shift_jis" in says


def test_another_separator_is_only_proposed_if_it_fits(tmp_path):
    content = "user_id;item_id;timestamp\na,b;p1;1\nc;p2;2\n"
    says = refused(tmp_path, content, separator="comma")
    assert says.startswith(
        "raw.csv, line 2: found 2 fields, allowed: 1 as in the first line, separated by comma (a field"
    )
    assert says.endswith("; semicolon fits the first lines: -S download.format.separator=semicolon)")
    assert "semicolon" not in refused(tmp_path, content.replace("p2;", "p2,"), separator="comma")


def test_missing_column_is_told_the_flag_with_the_most_similar_name(tmp_path):
    says = refused(tmp_path, "userId,movieId,timestamp\n1,2,3\n")
    assert says.endswith(
        "its columns are: userId, movieId, timestamp; allowed: another name for it (-S download.columns.user=userId)"
    )
    columns = Columns(user="userId")
    assert "-S download.columns.item=movieId" in refused(tmp_path, "userId,movieId,timestamp\n1,2,3\n", columns=columns)
    (tmp_path / "raw.csv").write_text("user_id,movieId\n1,2\n")
    with pytest.raises(DataError, match=r"\(--item-column movieId\)$"):
        write_history_log("raw.csv", tmp_path / "h.parquet", root=tmp_path, columns=Columns())


HEADERS = {  # real ones: what is proposed for user, item and time
    "userId,movieId,rating,timestamp": ("userId", "movieId", None),
    "timestamp,visitorid,event,itemid,transactionid": ("visitorid", "itemid", None),
    "rating,title,text,asin,parent_asin,sort_timestamp,helpful_vote": ("NAME", "asin", "NAME"),
    "Invoice,StockCode,Quantity,InvoiceDate,Price,Customer ID,Country": ("Customer ID", "NAME", "InvoiceDate"),
    "household_id,store_id,basket_id,product_id,quantity,transaction_timestamp": (
        "NAME", "product_id", "transaction_timestamp",
    ),
    "t_dat,customer_id,article_id,price,sales_channel_id": ("customer_id", "article_id", "NAME"),
    "Kunde,Seite,Zeit": ("NAME", "NAME", "NAME"),
    "id,order_item_count,user_age,updated": ("NAME", "NAME", "NAME"),
    "usr_id,itm_id,timestmp": ("usr_id", "itm_id", "timestmp"),
}  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_a_column_is_only_proposed_if_its_name_fits(header):
    names = header.split(",")
    for key, expected in zip((USER, ITEM, TIMESTAMP), HEADERS[header], strict=True):
        if expected is not None:
            with pytest.raises(DataError) as caught:
                require_columns(names, {key: key}, "log", keys={key: "X"})
            proposed = "'X={}'" if " " in expected else "X={}"
            assert f"(-S {proposed.format(expected)})" in str(caught.value)


def test_line_that_tells_excel_the_separator_is_read(tmp_path):
    rows = "".join("{};{};{};a|b|c|d|e,f\n".format(*row) for row in EVENTS)
    for start in ("sep=;\n", "\ufeffsep=;\r\n", '"sep=;"\n\n'):
        assert read(tmp_path, start + "user_id;item_id;timestamp;x|y|z|v|w,v\n" + rows) == EVENTS
    assert read(tmp_path, "sep=;\n" + rows, columns=Columns(1, 2, 3), header=False) == EVENTS
    frame = text_files.scan(tmp_path / "raw.csv", None, Format(header=False))
    assert frame.collect()[PLACE][0] == f"{tmp_path}/raw.csv, line 2"


def test_columns_that_nobody_selects_may_have_one_name(tmp_path):
    content = table(TEXTS).replace("text\n", "text,text\n").replace(" wide", " wide,").replace("plain", "plain,")
    assert read(tmp_path, content) == EVENTS
    says = refused(tmp_path, content.replace("text,text", "user_id,text"))
    assert says.startswith("raw.csv names column 'user_id' twice")


def test_rows_in_order_need_no_times(tmp_path):
    content = "1 10\n2 20\n1 30\n"
    columns = Columns(1, 2, None)
    assert read(tmp_path, content, columns=columns, header=False) == [(1, 10, 0), (2, 20, 1), (1, 30, 2)]
    assert refused(tmp_path, content).endswith("-S download.columns.timestamp=null (rows are in order)")
    content = "timestamp,user_id,item_id\nx,1,10\nx,1,20\n"
    assert read(tmp_path, content, columns=Columns(timestamp=None)) == [(1, 10, 0), (1, 20, 1)]
    (tmp_path / "raw.csv").write_text("1 10\n2 20\n")
    found = write_history_log(
        "raw.csv",
        tmp_path / "h.parquet",
        root=tmp_path,
        columns=columns,
        settings=Download(columns=columns, format=Format(header=False)),
    )
    assert found.in_row_order
    assert pl.read_parquet(tmp_path / "h.parquet").rows() == [(1, 10, 0), (2, 20, 1)]


def test_separators(tmp_path):
    rows = "".join("{};{};{};a|b|c,d|e\n".format(*row) for row in EVENTS)
    assert read(tmp_path, "user_id;item_id;timestamp;x|y|z,w|v\n" + rows) == EVENTS
    rows = "".join("{} {} {}\n".format(*row) for row in EVENTS)
    assert read(tmp_path, "user_id item_id timestamp\n" + rows) == EVENTS
    says = refused(tmp_path, "who;what,when;x,y\n1;2,3;4,5\n")
    assert says.startswith("raw.csv, line 1: found semicolon and comma equally often, allowed: one separator")
    columns = Columns("who;what", "when;x", "y")
    assert read(tmp_path, "who;what,when;x,y\na;b,c;d,5\n", columns=columns, separator=",") == [("a;b", "c;d", 5)]


def test_files_of_a_glob_differ_in_dialect_and_may_have_no_records(tmp_path):
    (tmp_path / "1.csv").write_text(table(('"a, b"', "c", "d", "e", "f", "g")))
    (tmp_path / "2.csv").write_bytes(table(TEXTS, **TABS).encode("utf-16"))
    (tmp_path / "3.csv").write_text("user_id,item_id,timestamp\n\n")
    (tmp_path / "4.csv").write_text(table([text.replace('"', '\\"') for text in TEXTS], **QUOTED_BEFORE))
    fetch_log("[0-9].csv", tmp_path / "log.parquet", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet").rows() == EVENTS * 3


@pytest.mark.parametrize("name", ["raw.csv.gz", "raw.csv"])
def test_compressed_files_whatever_their_suffix(tmp_path, name):
    content = table(TEXTS).encode()
    middle = len(content) // 2
    assert read(tmp_path, gzip.compress(content[:middle]) + gzip.compress(content[middle:]), name=name) == EVENTS
    import pyarrow as pa

    assert read(tmp_path, pa.compress(content, codec="zstd", asbytes=True), name=name.replace("gz", "zst")) == EVENTS


def test_records_that_are_too_long_are_refused(tmp_path, monkeypatch):
    for module in (text_source, text_check, text_files):
        monkeypatch.setattr(module, "LONGEST", 1000)
        monkeypatch.setattr(module, "CHUNK", 400)
    assert read(tmp_path, table(("x" * 900, "", '"' + "y, \n" * 200 + '"', "", "", ""))) == EVENTS
    message = refused(tmp_path, table(("", "", "x" * 3000, "", "", "")))
    assert message.startswith("raw.csv, line 4: found a record of more than 1,000 bytes, allowed: at most that")
    message = refused(tmp_path, table(("", "", '"' + "y, \n" * 3000 + '"', "", "", "")))
    assert message.startswith("raw.csv, line 4: found an opening quote of field 4 that is not closed")


def test_line_ends_at_the_end_of_a_block(tmp_path, monkeypatch):
    for module in (text_source, text_check, text_files):
        monkeypatch.setattr(module, "LONGEST", 40)
        monkeypatch.setattr(module, "CHUNK", 30)
    path = tmp_path / "raw.csv"
    for begin in range(8):
        rows = [("x" * begin, 'a\r\nb, "', "c\r\n")] * 60
        cells = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in [("a", "b", "c"), *rows]]
        path.write_bytes("\r\n".join(map(",".join, cells)).encode())
        expected = [(*row, f"{path}, line {2 + 3 * place}") for place, row in enumerate(rows)]
        assert text_files.scan(path, None, Format()).collect().rows() == expected


def test_what_polars_leaves_to_the_reader(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("a,b,,\n" + "".join(f"{row},{row % 7},x,\n" for row in range(200_000)))
    frame = text_files.scan(path, None, Format())
    assert frame.collect_schema() == dict.fromkeys(["a", "b", PLACE], pl.String())
    assert frame.select(pl.len()).collect().item() == 200_000
    assert frame.head(3).collect().rows() == [(f"{row}", f"{row}", f"{path}, line {row + 2}") for row in range(3)]
    assert frame.select(PLACE).tail(1).collect().item() == f"{path}, line 200001"
    assert frame.filter(pl.col("b") == "6").select("a").head(2).collect()["a"].to_list() == ["6", "13"]
    rows = frame.with_row_index("row").filter(pl.col("a") == "150000").collect(engine="streaming")
    assert rows["row"].to_list() == [150_000]
    assert frame.slice(150_000, 1).collect(engine="streaming")["a"].to_list() == ["150000"]


def test_defaults_decide_everything_from_the_file():
    assert set(asdict(Format()).values()) == {"auto"}
