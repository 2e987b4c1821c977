"""The tables of docs/retrain-daily.md hold the figures of results/updates/."""

import re

import polars as pl

from cutrec.decide_update import EPOCHS, LEARNING_RATE
from tests.docs.pages import ROOT

LOGS = {
    "online-retail-ii": "Online Retail II",
    "completejourney": "completejourney",
    "yelp-s3rec-clock": "Yelp",
    "movietweetings-100k": "MovieTweetings",
}
REPLAYED = LOGS | {"ml-latest-2023-2148-users": "MovieLens"}
SETTINGS = ("dataset", "max_epochs", "learning_rate")
REPLAY = """\
| log | users per window | training again: NDCG@10 | never again | an update | 95 % interval | its steps | its time |
|---|--:|--:|--:|--:|--:|--:|--:|
"""
CHOICE = f"""\
| epochs | learning rate | {" | ".join(REPLAYED.values())} |
|--:|--:|{"--:|" * len(REPLAYED)}
"""
ALONE = """\
| log | training again | an update |
|---|--:|--:|
"""


def read(name: str) -> pl.DataFrame:
    return pl.read_csv(ROOT / "results/updates" / name, infer_schema_length=None)


def percent(value: float) -> str:
    return f"{value:.1f} %"


def windows() -> pl.DataFrame:
    """The mean over seeds of each update in each window, in percent of training again."""
    keys = ("model", *SETTINGS, "window")
    values = [pl.col(name).mean() for name in ("users", "steps", "seconds", "ndcg@10")]
    means = read("replay.csv").group_by(keys).agg(values)
    again = read("replay.csv").filter(model="again").group_by("dataset", "window").agg(values)
    return means.join(again, on=["dataset", "window"], suffix="_again")


def shares(rows: pl.DataFrame) -> pl.DataFrame:
    """The means over windows, in percent of those of training again."""
    ratios = [
        (100 * pl.col(name).sum() / pl.col(f"{name}_again").sum()).alias(name)
        for name in ("steps", "seconds", "ndcg@10")
    ]
    counts = [pl.col("users").min().alias("fewest"), pl.col("users").max().alias("most"), pl.len().alias("windows")]
    return rows.group_by("model", *SETTINGS).agg(*ratios, *counts, pl.col("ndcg@10_again").mean().alias("again"))


def replay_table() -> str:
    """A line for each log: the default update."""
    found, lines = shares(windows()), []
    default = {"max_epochs": EPOCHS, "learning_rate": LEARNING_RATE}
    for dataset, log in REPLAYED.items():
        row = found.filter(model="update", dataset=dataset, **default).row(0, named=True)
        never = found.filter(model="never", dataset=dataset).row(0, named=True)
        interval = read("replay_intervals.csv").filter(dataset=dataset, **default).row(0, named=True)
        cells = [
            log, f"{row['fewest']:,.0f} to {row['most']:,.0f}", f"{row['again']:.4f}", percent(never["ndcg@10"]),
            percent(row["ndcg@10"]), f"{interval['low']:.1f} to {interval['high']:.1f}", percent(row["steps"]),
            percent(row["seconds"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |\n")
    return REPLAY + "".join(lines)


def choice_table() -> str:
    """A line for the settings that all windows of all logs were trained with: windows 2 and 3, and 4 and 5."""
    rows = windows().filter(model="update")
    halves = [shares(rows.filter(pl.col("window").is_in(half))).filter(windows=2) for half in ([2, 3], [4, 5])]
    both = halves[0].join(halves[1], on=SETTINGS, suffix="_after").sort("max_epochs", "learning_rate")
    lines = []
    for (epochs, rate), group in both.group_by("max_epochs", "learning_rate", maintain_order=True):
        cells = {row["dataset"]: f"{row['ndcg@10']:.1f}, {row['ndcg@10_after']:.1f}" for row in group.to_dicts()}
        if len(cells) == len(REPLAYED):
            lines.append(f"| {epochs} | {rate} | {' | '.join(cells[dataset] for dataset in REPLAYED)} |\n")
    return CHOICE + "".join(lines)


def alone_table() -> str:
    """A line for each log: the seconds of both trainings with nothing else at work."""
    rows, lines = read("replay_alone.csv").filter(call=1), []
    for dataset, log in REPLAYED.items():
        seconds = dict(rows.filter(dataset=dataset).select("model", "seconds").rows())
        lines.append(f"| {log} | {seconds['again']:.2f} s | {seconds['update']:.2f} s |\n")
    return ALONE + "".join(lines)


def test_the_tables_of_the_replay_are_those_of_the_results():
    """If one is not, the message of this test holds the one to paste."""
    page = (ROOT / "docs/retrain-daily.md").read_text(encoding="utf-8")
    for table in (replay_table(), choice_table(), alone_table()):
        assert table in page, table


def test_the_figures_of_the_page_are_those_of_the_results():
    rows = pl.read_csv(ROOT / "results/updates/variants.csv").filter(pl.col("window") > 1)
    again = rows.filter(pl.col("model") == "again").group_by("dataset", "window").agg(again=pl.col("ndcg@10").mean())
    updates = rows.filter(pl.col("passes") == 2).join(again, on=["dataset", "window"])
    share = 100 * pl.col("ndcg@10").mean() / pl.col("again").mean()
    found = {(name, letter): value for name, letter, value in updates.group_by("dataset", "variant").agg(share).rows()}
    page = (ROOT / "docs/retrain-daily.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| [^|]+ \| ([A-Z]) \|(.+)\|$", page, flags=re.MULTILINE)
    assert len(lines) == 12
    for letter, cells in lines:
        expected = [f"{found[name, letter]:.1f}" if (name, letter) in found else "" for name in LOGS]
        assert [cell.strip() for cell in cells.split("|")] == expected, letter
