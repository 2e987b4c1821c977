"""Render results/losses.csv as a markdown table and a picture.

python packages/cce-kernels/benchmarks/render.py [CSV]
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rows import Row, read

COLUMNS = {
    "point": "point", "variant": "variant", "scores": "scores", "M": "M", "V": "V", "D": "D", "N": "N",
    "dtype": "dtype",
    "forward_ms": "forward ms", "backward_ms": "backward ms", "both_ms": "both ms", "graph_ms": "graph ms",
    "share_of_ceiling": "share of ceiling", "peak_extra_mib": "peak MiB", "dhidden_error": "dH error",
    "dweight_error": "dW error", "revision": "revision",
}  # fmt: skip
HEAD = (
    'Medians of forward, backward and both from Python, launches included; "graph" is both replayed from a CUDA graph, '
    "the GPU alone. Peak memory is beyond the inputs and includes dW and dH. Errors are relative, against float64."
)
SECTIONS = {
    "full": (
        "The full loss",
        "The share is of a matrix product measured in the same run: 8 M V D FLOPs over the time.",
    ),
    "sampled": (
        "The sampled softmax",
        "The share is of a copy measured in the same run: the bytes of the gathered rows, forward and again backward, "
        "over the time. Rows of dW are left out of the bytes.",
    ),
}
PICTURED = {"full": ("beauty", "ml20m", "zvuk", "d64"), "sampled": ("beauty", "ml20m", "zvuk")}


def cell(row: Row, name: str) -> str:
    """One cell of the table."""
    value = getattr(row, name)
    if value is None:
        return row.note.split(":")[0] if name == "both_ms" and row.note and row.forward_ms is None else ""
    if name == "share_of_ceiling":
        return f"{100 * value:.0f} %"
    if name.endswith("_error"):
        return f"{value:.1e}"
    if name.endswith("_ms"):
        return f"{value:.3g}"
    if name == "peak_extra_mib":
        return f"{value:.0f}"
    if name == "dtype" and row.weight_dtype != value:
        return f"{value}, {row.weight_dtype} table"
    return str(value)


def machine(row: Row) -> str:
    """Where a row was measured."""
    driver = f", driver {row.driver}" if row.driver else ""
    return f"{row.gpu}{driver}, torch {row.torch}, triton {row.triton}"


def table(rows: list[Row]) -> list[str]:
    """Lines of markdown: a table for each loss and machine."""
    lines = [HEAD]
    for op, (title, about) in SECTIONS.items():
        chosen = [row for row in rows if row.op == op]
        for where in dict.fromkeys(map(machine, chosen)):
            mine = [row for row in chosen if machine(row) == where]
            notes = dict.fromkeys(row.note for row in mine if row.note)
            lines += ["", f"## {title}", "", f"{where}. {about}", *(f"Note: {note}." for note in notes), ""]
            lines += ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
            lines += ["| " + " | ".join(cell(row, name) for name in COLUMNS) + " |" for row in mine]
    return lines


def render(path: Path) -> None:
    """Write the table and, where matplotlib is installed, the picture beside the CSV."""
    rows = read(path)
    path.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")
    if find_spec("matplotlib"):
        draw(rows, path.with_suffix(".png"))


def draw(rows: list[Row], path: Path) -> None:
    """Draw bars of time (from 0) and memory (logarithmic) of the GPU with most rows, at points that most variants ran.

    Times of two kinds of GPU say nothing beside each other.
    """
    from matplotlib.figure import Figure

    timed = [row for row in rows if row.both_ms is not None]
    if timed:
        gpu, _ = Counter(row.gpu for row in timed).most_common(1)[0]
        timed = [row for row in timed if row.gpu == gpu]
    ops = [op for op in PICTURED if any(row.op == op and row.point in PICTURED[op] for row in timed)]
    if not ops:
        return
    figure = Figure(figsize=(19, 5.2 * len(ops)), layout="constrained")
    parts: Any = figure.subfigures(len(ops), 1, squeeze=False)[:, 0]
    for part, op in zip(parts, ops, strict=True):
        drawn = [row for row in timed if row.op == op]
        points = [name for name in PICTURED[op] if any(row.point == name for row in drawn)]
        axes = part.subplots(2, len(points), squeeze=False)
        part.suptitle(f"{SECTIONS[op][0]}, {drawn[0].dtype}, {drawn[0].gpu}")
        for column, name in enumerate(points):
            chosen = [row for row in drawn if row.point == name]
            bars(axes[0][column], chosen, "both_ms", "forward + backward, ms")
            held = [row for row in chosen if row.peak_extra_mib]
            bars(axes[1][column], held, "peak_extra_mib", "peak MiB, logarithmic")
            axes[1][column].set_xscale("log")
            axes[1][column].set_xlim(10, 1e7)
            axes[1][column].set_xticks([], [])
            axes[1][column].minorticks_off()
    figure.savefig(path, dpi=110)


def bars(axis: Any, rows: list[Row], key: str, title: str) -> None:
    """One panel of the picture; empty where nothing was measured."""
    if not rows:
        axis.set_axis_off()
        return
    labels = [row.variant for row in rows]
    values = [getattr(row, key) for row in rows]
    drawn = axis.barh(
        labels, values, color=["tab:orange" if label.startswith("ours") else "tab:gray" for label in labels]
    )
    axis.bar_label(drawn, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.4)
    negatives = f", N {rows[0].N:,}" if rows[0].N else ""
    axis.set_title(f"M {rows[0].M:,}, V {rows[0].V:,}, D {rows[0].D}{negatives}\n{title}", fontsize=10)
    axis.set_xticks([], [])
    axis.tick_params(axis="y", labelsize=8)


if __name__ == "__main__":
    render(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "losses.csv")
