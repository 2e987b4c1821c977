"""Random tables in random dialects: what is read is what was written, or the file is refused with a line.

Two of the writers are wrong on purpose. Where their faults cancel out, nobody can tell what was meant (in about one of
10,000 of their files); the seeds below have no such file.
"""

import csv
import io
import random
from collections import Counter
from itertools import accumulate

import polars as pl
import pytest

from rec_data.config import Format
from rec_data.errors import DataError
from rec_data.raw import text_check, text_files, text_source
from rec_data.raw.rows import PLACE

FILES = 400
WORDS = ("p1", "ann", "170", "7.50", "x y", "é", "München", "日本", " pad ", "it's", "#", "-", "")
QUOTES = ('12" mix', '"Best of', 'Live"', 'the "old" way', '"', 'a"b"c', '"Quiet" nights')
MARKS = (",", ";", "\t", "|", " ")


def pick(rng, separator, kinds):
    """A cell: mostly a word, sometimes what the kinds allow."""
    kind = rng.choice(["word"] * 4 + kinds)
    word = rng.choice(WORDS) if separator != " " else rng.choice(WORDS).replace(" ", "_")
    if kind == "quotes":
        return rng.choice(QUOTES).replace(" ", "_" if separator == " " else " ")
    if kind == "separators":
        return rng.choice((word + separator, separator + word, f"Salt{separator}_fine", separator))
    if kind == "lines":
        return rng.choice((f"{word}\n{word}", "\n", f"a\r\n{word}", f"{word}\n\nz", f"{word}\n"))
    if kind == "slashes":
        return rng.choice(("C:\\dir", "\\", "end\\", "\\\\server", "\\N", 'a\\"b', "\\n"))
    if kind == "wrapped":
        return '""' if rng.random() < 0.2 else f'"{word}"'
    return word


def needs_quotes(cell, separator):
    return any(mark in cell for mark in (separator, '"', "\n", "\r"))


def doubled(cell, *, separator, everything):
    """As RFC 4180 says."""
    return '"' + cell.replace('"', '""') + '"' if everything or needs_quotes(cell, separator) else cell


def escaped(cell, *, separator, everything):
    """As Spark, MySQL and csv.writer(doublequote=False, escapechar=...) do."""
    text = cell.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if everything or needs_quotes(cell, separator) else text


def unquoted(cell, *, separator, everything):
    return cell


def sloppy(cell, *, separator, everything):
    """Quotes only what cannot be read without them; quotes inside other cells stay as they are."""
    return (
        doubled(cell, separator=separator, everything=cell.startswith('"'))
        if (separator in cell or "\n" in cell or cell.startswith('"'))
        else cell
    )


def broken(cell, *, separator, everything):
    """Quotes around, but quotes inside are not doubled."""
    return f'"{cell}"' if everything or needs_quotes(cell, separator) else cell


WRITERS = {
    "doubled": (doubled, ["quotes", "separators", "lines", "slashes", "wrapped"]),
    "escaped": (escaped, ["quotes", "separators", "lines", "slashes", "wrapped"]),
    "unquoted": (unquoted, ["quotes", "slashes"]),
    "sloppy": (sloppy, ["quotes", "separators", "lines", "slashes"]),
    "shifted": (unquoted, ["quotes", "separators", "lines"]),
    "broken": (broken, ["quotes", "separators", "lines"]),
}


def make(rng):
    """The kind of writer, its separator, the table with its header, its records, and the text of the file."""
    kind = rng.choice(list(WRITERS))
    write, kinds = WRITERS[kind]
    separator = rng.choice(MARKS)
    width = rng.choice((3, 3, 4, 5, 9, 120))
    kinds = rng.sample(kinds, rng.randint(0, len(kinds)))
    names = ["user_id", "item_id", "timestamp", *(f"column{place}" for place in range(3, width))]
    rng.shuffle(names)
    rows = [[pick(rng, separator, kinds) for _ in names] for _ in range(rng.choice((1, 2, 10, 60)))]
    if rng.random() < 0.5:  # text in one column only, as in most logs
        place = rng.randrange(width)
        rows = [
            [cell if at == place else f"{at}{index}" for at, cell in enumerate(row)] for index, row in enumerate(rows)
        ]
    everything = rng.random() < 0.3
    end = rng.choice(("\n", "\r\n"))
    records = [
        separator.join(write(cell, separator=separator, everything=everything) for cell in row)
        for row in [names, *rows]
    ]
    text = end.join(records) + (end if rng.random() < 0.7 else "")
    return kind, separator, names, rows, records, text


def two_ways(records, separator, width):
    """Whether a record of several lines could be as many records without quoting, or mostly so if there is no other.

    Nobody can tell then.
    """
    joined = [
        [line for line in record.replace("\r\n", "\n").split("\n") if line] for record in records if "\n" in record
    ]
    fits = [
        sum(
            "\r" not in line
            and width in (len(line.split(separator)), len(next(csv.reader([line], delimiter=separator))))
            for line in lines
        )
        for lines in joined
    ]
    sides = list(zip(fits, joined, strict=True))
    return any(fit == len(lines) for fit, lines in sides) or all(fit * 2 > len(lines) for fit, lines in sides)


def outcome(path, names, columns, form):
    """The rows that are read, with nothing in place of null, and their lines; or the error."""
    try:
        frame = text_files.scan(path, columns, form).collect()
    except DataError as error:
        return None, [], str(error)
    assert frame.columns == [*names, PLACE]
    lines = [int(place.removeprefix(f"{path}, line ")) for place in frame[PLACE]]
    return [[cell or "" for cell in row[:-1]] for row in frame.rows()], lines, ""


def peers(text, separator):
    """What Python's csv and pandas read from a well quoted file."""
    yield [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row][1:]
    pd = pytest.importorskip("pandas")
    frame = pd.read_csv(io.StringIO(text, newline=""), sep=separator, dtype=str, keep_default_na=False)
    yield frame.to_numpy().tolist()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_what_is_written_is_read_or_refused(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    counts = Counter()
    path = tmp_path / "raw.csv"
    for number in range(FILES):
        kind, separator, names, rows, records, text = make(rng)
        mark = "\ufeff" if rng.random() < 0.2 else ""
        path.write_bytes((mark + text).encode())
        chunk = rng.choice((100, 1 << 20))
        for module in (text_source, text_check, text_files):
            monkeypatch.setattr(module, "CHUNK", chunk)
            monkeypatch.setattr(module, "LONGEST", rng.choice((5000, 1 << 20)))
        has_slash = any("\\" in cell for row in rows for cell in row)
        form = Format(escape="\\" if kind == "escaped" and has_slash else "auto")
        columns = ["user_id", "item_id", "timestamp"] if rng.random() < 0.5 else None
        found, lines, error = outcome(path, names, columns, form)
        where = f"{kind}, seed {seed}, file {number}: {error}\n{text[:3000]}"
        if columns is not None and found is not None:
            keep = [names.index(name) for name in columns]
            found = [[row[place] for place in keep] for row in found]
            rows = [[row[place] for place in keep] for row in rows]
        if found is None:
            assert "\n" not in error, where
            assert "line " in error, where
            counts[kind, "refused"] += 1
            if kind in ("doubled", "escaped"):
                assert two_ways(records[1:], separator, len(names)) or "escape=none" in error, where
        else:
            counts[kind, "read"] += 1
            if kind == "broken":  # its quotes mean nothing, but nothing else may differ
                found, rows = ([[cell.replace('"', "") for cell in row] for row in table] for table in (found, rows))
            if kind == "shifted":  # an empty line is no record, so line ends around a line are nothing
                rows = [[cell.strip("\r\n") for cell in row] for row in rows]
            assert found == rows, where
            if kind in ("doubled", "escaped"):
                ends = list(accumulate(record.count("\n") + 1 for record in records))
                assert lines == [end + 1 for end in ends[:-1]], where
            if kind == "doubled" and columns is None:
                for peer in peers(text, separator):
                    assert found == peer, where
    for kind in ("doubled", "escaped"):
        assert counts[kind, "refused"] <= counts[kind, "read"] / 20


@pytest.mark.parametrize("seed", range(2))
def test_quotes_that_are_text_never_swallow_rows_beside_texts_of_several_lines(tmp_path, seed):
    """Logs in which texts of several lines are quoted and others are not, whatever quotes they hold."""
    rng = random.Random(seed)
    counts = Counter()
    path = tmp_path / "raw.csv"
    for number in range(FILES):
        separator = rng.choice((",", "\t"))
        place, end, more = rng.randrange(4), rng.choice(("\n", "\r\n")), rng.random() < 0.5
        stray = rng.choice((0, 0.2, 0.4))
        rows, lines = [], []
        for row in range(rng.choice((5, 30))):
            ids = [f"u{rng.randrange(5)}", f"p{row}", str(1_700_000_000 + row)]
            words = [rng.choice(("fine", "and", f"so{separator}", f"{rng.randrange(9)}")) for _ in range(9)]
            text = rng.choice(("\n", "\n\n", " ")).join(words) if rng.random() < 0.5 else "fine"
            text = rng.choice(('"Best of', 'Live"', '12" mix')) if rng.random() < stray else text
            written = f'"{text}"' if separator in text or "\n" in text else text
            cells = [*ids[:place], written, *ids[place:]]
            lines.append(separator.join([*cells, f'"u{separator} v"'] if more else cells))
            rows.append(ids)
        names = ["user_id", "item_id", "timestamp"]
        header = separator.join([*names[:place], "text", *names[place:], *(["more"] if more else [])])
        path.write_bytes(end.join([header, *lines, ""]).encode())
        try:
            found = text_files.scan(path, names, Format()).select(names).collect().rows()
        except DataError:
            counts[stray > 0, "refused"] += 1
            continue
        counts[stray > 0, "read"] += 1
        assert [list(row) for row in found] == rows, f"seed {seed}, file {number}\n{path.read_text()[:3000]}"
    assert counts[False, "refused"] == 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_one_damaged_byte_never_changes_more_than_one_row(tmp_path, seed):
    rng, counts, path = random.Random(seed), Counter(), tmp_path / "raw.csv"
    names = ["user_id", "item_id", "timestamp"]

    def read(content):
        path.write_bytes(content)
        try:
            return Counter(text_files.scan(path, names, Format()).select(names).collect().rows())
        except (DataError, pl.exceptions.ColumnNotFoundError):  # the header has another name
            return None

    texts = ("plain", '"a, b"', "x y", '12" mix', '"said ""hi"""', "", '"two\nlines"', "é")
    for number in range(FILES // 8):
        separator, kinds = rng.choice(MARKS[:4]), rng.sample(texts, rng.randint(1, 4))
        rows = [[*map(str, rng.choices(range(99), k=2)), f"{1706702400 + row}", rng.choice(kinds)] for row in range(30)]
        lines = [separator.join(row).replace(", ", f"{separator} ") for row in [[*names, "text"], *rows]]
        content = "\n".join([*lines, ""]).encode()
        whole = read(content)
        for _ in range(10 if whole else 0):
            at, byte = rng.randrange(len(content)), rng.choice(b"\",;\t|\n\r \0\\'x1\xff-").to_bytes()
            found = read(content[:at] + rng.choice((b"", byte, byte + content[at : at + 1])) + content[at + 1 :])
            counts[found is None] += 1
            if found is not None:
                changed = (whole - found).total(), (found - whole).total()
                assert max(changed) <= 1, f"seed {seed}, file {number}, byte {at} is {byte!r}\n{content.decode()}"
    assert counts[False] > counts[True] / 4
