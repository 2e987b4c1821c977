"""The tables of docs/serve.md are those of the measurements."""

import csv

from tests.docs.pages import ROOT

HEADER = """\
| items | ranking | p50 | p99 | requests/s | p99 doubles at | server's memory | recall@10 | index: built in | size |
|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|
"""
GPU_HEADER = """
The same on an {gpu} (`--device cuda`), with one list per request and with many. A GPU multiplies in bf16, so its
recall is that to float32:

| items | lists per request | p50 | p99 | lists/s | server's memory | of the GPU | recall@10 |
|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def tables() -> str:
    """A line for each row of serve.csv, small catalogues first; rows of a GPU are in a table of their own."""
    with (ROOT / "packages/cutrec/benchmarks/results/serve.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (int(row["items"]), row["mode"], int(row["users"])))
    lines = {"cpu": "", "cuda": ""}
    for row in rows:
        cells = [row["mode"] if row["device"] == "cpu" else row["users"]]
        cells += [f"{float(row['p50_ms']):.1f} ms", f"{float(row['p99_ms']):.1f} ms"]
        cells += [f"{float(row['requests_s']) * int(row['users']):,.0f}"]
        memory, recall = f"{int(row['memory_mib']):,} MiB", f"{float(row['recall']):.3f}"
        if row["device"] == "cpu":
            cells += [f"{float(row['doubled_at_s']):.0f}/s" if row["doubled_at_s"] else "", memory, recall]
            cells += [f"{float(row['index_s']):,.1f} s", f"{row['index_mib']} MiB"] if row["index_s"] else ["", ""]
        else:
            cells += [memory, f"{int(row['gpu_mib']):,} MiB", recall]
        lines[row["device"]] += f"| {int(row['items']):,} | {' | '.join(cells)} |\n".replace("  ", " ")
    gpus = {row["gpu"] for row in rows if row["device"] == "cuda"}
    return HEADER + lines["cpu"] + "".join(GPU_HEADER.format(gpu=gpu) + lines["cuda"] for gpu in gpus)


def test_the_tables_are_those_of_the_measurements():
    """If they are not, the message of this test holds the ones to paste."""
    assert tables() in (ROOT / "docs/serve.md").read_text(encoding="utf-8"), tables()
