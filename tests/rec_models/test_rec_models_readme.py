"""The page of rec-models says what was measured, and names every file."""

import csv
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "packages" / "rec-models"
PAGE = (PACKAGE / "README.md").read_text()
POINTS = {"beauty, V 176,450": "beauty", "zvuk, V 893,022": "zvuk", "V 9.4 M x D 128": "large"}
DIGITS = {"beauty": ".2f", "zvuk": ".1f", "large": ".1f"}


def test_the_table_of_optimisers_is_what_was_measured():
    with (PACKAGE / "benchmarks" / "results" / "step.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["point"], row["variant"]): row for row in csv.DictReader(file) if row["loss"] == "cce_neg/tile"}
    lines = PAGE.split("milliseconds and peak GiB")[1].split("\n\n")[1].splitlines()
    columns = [POINTS[cell.strip()] for cell in lines[0].strip("|").split("|")[1:]]
    seen = 0
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        variant = name.strip("`")
        for point, cell in zip(columns, cells, strict=True):
            row = rows.get((point, "graphs" if variant == "adam" else variant))
            expected = "not run"
            if row is not None:
                expected = ", ".join(f"{float(row[key]):{DIGITS[point]}}" for key in ("step_ms", "fit_peak_gib"))
                seen += 1
            assert cell == expected, (variant, point)
    assert (columns, seen) == (["beauty", "zvuk", "large"], 10)


def test_every_file_is_listed():
    listed = PAGE.split("## Files")[1]
    for path in (PACKAGE / "src" / "rec_models").glob("*.py"):
        assert path.stem == "__init__" or re.search(rf"\b{path.name}\b", listed), path.name
