"""The table of the parts of an update in docs/retrain-daily.md holds the figures of results/updates/variants.csv."""

import re

import polars as pl

from tests.docs.pages import ROOT

LOGS = ("online-retail-ii", "completejourney", "yelp-s3rec-clock", "movietweetings-100k")


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
