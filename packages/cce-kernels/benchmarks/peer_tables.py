"""Render results/peers.csv as the tables of the package's README and as results/peers.md, which has every row.

python packages/cce-kernels/benchmarks/peer_tables.py [CSV]    # prints the tables of the README, writes peers.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from peer_losses import PEERS
from points import TWINS
from rows import PeerRow, read_as

RESULTS = Path(__file__).parent / "results"
NAMES = {"ours": "**this package**", "eager torch": "plain torch"}
PADDED = "*"  # behind a figure at the next multiple of 256
ALL = ("point", "peer", "M", "V", "D", "popularity", "ms", "from", "to", "MiB", "loss error", "dH error", "dW error")


def milliseconds(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def by_point(rows: list[PeerRow], columns: dict[str, str]) -> str:
    """Times of forward + backward: a line for each peer, a column for each point, by its title."""
    found = {(row.peer, row.point): milliseconds(row.median_ms) for row in rows if row.median_ms is not None}
    lines = []
    for peer in PEERS:
        cells = []
        for point in columns.values():
            padded = found.get((peer, f"{point}-256"))
            cells.append(found.get((peer, point)) or (f"{padded}{PADDED}" if padded else ""))
        if any(cells):
            lines.append([NAMES.get(peer, peer), *cells])
    return markdown(["ms", *columns], lines)


def one_point(rows: list[PeerRow], point: str) -> str:
    """Time with its range, memory and errors of each peer at one point."""
    lines = [
        [
            NAMES.get(row.peer, row.peer), milliseconds(row.median_ms),
            f"{milliseconds(row.fastest_ms)} to {milliseconds(row.slowest_ms)}", f"{row.peak_extra_mib:,.0f}",
            f"{row.dhidden_error:.1e}", f"{row.dweight_error:.1e}",
        ]
        for row in rows
        if row.point == point and None not in (row.median_ms, row.fastest_ms, row.slowest_ms, row.peak_extra_mib)
    ]  # fmt: skip
    return markdown(["", "ms", "fastest to slowest", "MiB beyond the inputs", "error of dH", "error of dW"], lines)


def tables(rows: list[PeerRow]) -> dict[str, str]:
    """The tables of the README by name."""
    return {
        "one": one_point(rows, "v176384"),
        "twins": by_point(rows, {name: name for name in TWINS}),
        "V": by_point(rows, {f"V {v:,}": f"v{v}" for v in (1024, 4096, 16384, 65536, 176384)}),
        "D": by_point(rows, {f"D {d}": f"d{d}" for d in (64, 128, 256, 512)}),
        "popularity": by_point(rows, {"ids spread": "popular-spread", "ids sorted": "popular-sorted"}),
    }


def everything(rows: list[PeerRow]) -> str:
    """All rows by GPU and software, what failed with its reason."""
    text = "Forward + backward of the full loss, each in a process of its own (peers.py). Errors are against float64.\n"
    for where in dict.fromkeys((row.gpu, row.driver, row.torch, row.triton, row.revision) for row in rows):
        mine = [row for row in rows if (row.gpu, row.driver, row.torch, row.triton, row.revision) == where]
        packages = ", ".join(sorted({name for row in mine for name in row.packages.split(", ") if name}))
        gpu, driver, torch, triton, revision = where
        text += f"\n## {gpu}\n\nDriver {driver}, torch {torch}, triton {triton}, revision {revision}; {packages}.\n\n"
        lines = []
        for row in mine:
            figures = [row.median_ms, row.fastest_ms, row.slowest_ms]
            errors = [row.loss_error, row.dhidden_error, row.dweight_error]
            lines.append([
                row.point, row.peer, *(f"{n}" for n in (row.M, row.V, row.D)), row.popularity,
                *("" if x is None else milliseconds(x) for x in figures),
                "" if row.peak_extra_mib is None else f"{row.peak_extra_mib:,.0f}",
                *("" if x is None else f"{x:.1e}" for x in errors), row.note.replace("|", "/"),
            ])  # fmt: skip
        text += markdown([*ALL, "note"], lines)
    return text


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "peers.csv"
    measured = read_as(PeerRow, path)
    path.with_suffix(".md").write_text(everything(measured))
    for name, table in tables(measured).items():
        print(name, table, sep="\n\n")
