"""The example of the package's README runs as it is printed, and its tables say what was measured."""

import csv
import re
from pathlib import Path

README = Path(__file__).parents[2] / "packages/cce-kernels/README.md"


def test_the_example_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    assert names["loss"].isfinite()
    assert names["weight"].grad.isfinite().all()


def test_the_files_it_names_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link


NAMES = {
    "**this package**": "ours", "plain torch": "eager torch", "liger-kernel": "liger-kernel",
    "cut-cross-entropy, unfiltered": "cut-cross-entropy unfiltered",
    "cut-cross-entropy, as it comes": "cut-cross-entropy default",
    "tile of 64": "ours, sharing tile", "none": "ours, sharing none",
}  # fmt: skip
SHAPES = {
    "32,768, 176,450, 511": "beauty", "the same, negatives by Zipf's law": "beauty-zipf",
    "131,072, 14,000, 511": "ml20m", "131,072, 893,022, 2,047": "zvuk",
}  # fmt: skip


def _tables() -> list[list[list[str]]]:
    """Cells of the rows of each table that has numbers of time."""
    tables = [[]]
    for line in README.read_text().splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table and any(row[0] in NAMES or row[0] in SHAPES for row in table)]


def _measured(op: str, point: str, variant: str, column: str, gpu: str = "NVIDIA H200") -> float:
    path = README.parent / "benchmarks/results/losses.csv"
    with path.open(newline="") as file:
        (row,) = (
            row for row in csv.DictReader(file)
            if (row["op"], row["point"], row["variant"]) == (op, point, variant) and row["gpu"].startswith(gpu)
        )  # fmt: skip
    return float(row[column])


def _says(cell: str, value: float) -> None:
    """A printed number is the value, rounded to the digits that are printed."""
    whole, decimals, exponent = re.match(r"([\d,]+)\.?(\d*)(?:e(-\d+))?", cell).groups()
    number = float(f"{whole.replace(',', '')}.{decimals}e{exponent or 0}")
    last_digit = 10.0 ** (int(exponent or 0) - len(decimals))
    assert abs(number - value) <= 0.501 * last_digit, (cell, value)


def test_its_tables_are_those_of_the_measurements():
    peers, widths, sampled = _tables()
    for row in peers[3:]:
        for start, point in ((1, "beauty"), (4, "ml20m")):
            for cell, column in zip(row[start:], ("both_ms", "peak_extra_mib", "dhidden_error"), strict=False):
                _says(cell, _measured("full", point, NAMES[row[0]], column))
    points = [name.replace("D ", "d") for name in widths[0][1:]]
    for row in widths[2:]:
        for cell, point in zip(row[1:], points, strict=True):
            if row[0].startswith("share"):
                _says(cell, 100 * _measured("full", point, "ours", "share_of_ceiling"))
            else:
                _says(cell, _measured("full", point, NAMES[row[0]], "both_ms"))
    checked, point = 0, ""
    for row in sampled[2:]:
        point = SHAPES.get(row[0], point)
        variant = NAMES[row[1]]
        _says(row[2], _measured("sampled", point, variant, "both_ms"))
        _says(row[3], _measured("sampled", point, variant, "graph_ms"))
        _says(row[5], _measured("sampled", point, variant, "graph_ms", "NVIDIA H100"))
        if row[4].endswith("ms"):
            _says(row[4], _measured("sampled", point, "eager torch", "both_ms"))
        checked += 1
    assert (len(peers), len(widths), checked) == (8, 8, 8)
