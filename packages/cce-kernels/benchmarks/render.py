"""Render results/losses.csv as a markdown table and a picture.

python packages/cce-kernels/benchmarks/render.py [CSV]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

COLUMNS = {
    "op": "operation", "variant": "variant", "scores": "scores", "M": "M", "V": "V", "D": "D", "N": "N",
    "dtype": "dtype", "forward_ms": "forward ms", "backward_ms": "backward ms", "both_ms": "both ms",
    "share_of_ceiling": "share of ceiling", "peak_extra_mib": "peak MiB", "dhidden_error": "dH error",
    "dweight_error": "dW error",
}  # fmt: skip


def cell(row: Mapping[str, str], name: str) -> str:
    """One cell of the table."""
    text = row[name]
    if not text:
        return row["note"].split(":")[0] if name == "both_ms" and row["note"] else ""
    if name == "share_of_ceiling":
        return f"{100 * float(text):.0f} %"
    if name.endswith("_error"):
        return f"{float(text):.1e}"
    if name.endswith("_ms"):
        return f"{float(text):.3g}"
    if name == "peak_extra_mib":
        return f"{float(text):.0f}"
    if name == "dtype" and row["weight_dtype"] != text:
        return f"{text}, {row['weight_dtype']} table"
    return text


def render(path: Path) -> None:
    """Write the table and the picture beside the CSV."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    lines = [
        f"{first['gpu']}, driver {first['driver']}, torch {first['torch']}, triton {first['triton']}, "
        f"revision {first['revision']}. Medians. Peak memory is beyond the inputs and includes dW and dH. The ceiling "
        "is a matrix product (full) or a copy (sampled) measured in the same run.",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cell(row, name) for name in COLUMNS) + " |" for row in rows),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    draw(rows, path.with_suffix(".png"))


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw bars of time (from 0) and memory (logarithmic) for the points that most variants ran."""
    from matplotlib.figure import Figure

    points = [name for name in ("beauty", "ml20m", "d64", "d128", "d256") if any(row["point"] == name for row in rows)]
    if not points:
        return
    figure = Figure(figsize=(3.9 * len(points), 5.6), layout="constrained")
    axes = figure.subplots(2, len(points), squeeze=False)
    for column, name in enumerate(points):
        chosen = [row for row in rows if row["point"] == name and row["op"] == "full" and row["both_ms"]]
        labels = [row["variant"] for row in chosen]
        colors = ["tab:orange" if label == "ours" else "tab:gray" for label in labels]
        row0 = chosen[0]
        for line, (key, title) in enumerate(
            (("both_ms", "forward + backward, ms"), ("peak_extra_mib", "peak MiB, logarithmic"))
        ):
            axis = axes[line][column]
            values = [float(row[key]) for row in chosen]
            bars = axis.barh(labels, values, color=colors)
            axis.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=2)
            axis.invert_yaxis()
            if line == 1:
                axis.set_xscale("log")
                axis.set_xlim(10, 1e6)
            axis.margins(x=0.25)
            axis.set_title(f"M {int(row0['M']):,}, V {int(row0['V']):,}, D {row0['D']}\n{title}", fontsize=9)
            axis.set_xticks([], [])
            axis.minorticks_off()
            axis.tick_params(axis="y", labelsize=8)
    figure.suptitle(f"Full loss over the catalogue, {rows[0]['dtype']}, {rows[0]['gpu']}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    render(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "losses.csv")
