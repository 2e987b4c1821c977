"""The table of docs/serve.md is that of the measurements."""

import csv

from tests.docs.pages import ROOT

HEADER = """\
| items | ranking | p50 | p99 | requests/s | memory of the server | recall@10 | index: built in | size |
|--:|---|--:|--:|--:|--:|--:|--:|--:|
"""


def table() -> str:
    """A line for each row of serve.csv, small catalogues first."""
    with (ROOT / "packages/cutrec/benchmarks/results/serve.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (int(row["items"]), row["mode"]))
    lines = []
    for row in rows:
        index = [f"{float(row['index_s']):,.1f} s", f"{row['index_mib']} MiB"] if row["index_s"] else ["", ""]
        cells = [
            f"{int(row['items']):,}", row["mode"], f"{float(row['p50_ms']):.1f} ms", f"{float(row['p99_ms']):.1f} ms",
            f"{float(row['requests_s']):.0f}", f"{int(row['memory_mib']):,} MiB", f"{float(row['recall']):.3f}", *index,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |\n".replace("  ", " "))
    return HEADER + "".join(lines)


def test_the_table_is_that_of_the_measurements():
    """If it is not, the message of this test holds the one to paste."""
    assert table() in (ROOT / "docs/serve.md").read_text(encoding="utf-8"), table()
