"""Remarks on a split: only what matters, with its numbers and its cure."""

import dataclasses
from typing import Any

import pytest

from cutrec.config import Config
from cutrec.reporting.remarks import split_remarks

PLAIN: dict[str, Any] = {
    "test_fraction": 0.1,
    "future_share": 0.1002,
    "boundary_share": 0.0002,
    "ties": "shuffle",
    "tied_interactions": 99,
    "duplicate_interactions": 0,
    "copies_of_every_row": 1,
    "dates_only": False,
    "filtered": {"interactions": 10_000},
    "test": {"users": 1000, "unreachable_targets": 9},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        (
            {"tied_interactions": 100},
            ["100 of 10,000 interactions (1.0%) share user and time with another: their order is random; if the rows "
             "are in order, set download.ties=row_order"],
        ),
        (
            {"tied_interactions": 10_000, "dates_only": True, "ties": "row_order"},
            ["10,000 of 10,000 interactions (100.0%) share user and time with another (the dates have no time of day): "
             "they keep the order of rows (download.ties=row_order)"],
        ),
        (
            {"duplicate_interactions": 5},
            ["5 of 10,000 interactions (0.1%) repeat the user, item and time of another: download.duplicates=drop "
             "keeps one of each"],
        ),
        (
            {"duplicate_interactions": 7500, "copies_of_every_row": 3,
             "test": {"users": 40, "unreachable_targets": 40}},
            ["every row occurs at least 3 times, and 7,500 of 10,000 interactions (75.0%) repeat the user, item and "
             "time of another: download.duplicates=drop keeps one of each",
             "40 of 40 test targets are in the history of their user already, and evaluate.filter_seen=true keeps seen "
             "items out of every list: download.duplicates=drop removes the copies that cause it"],
        ),
        (
            {"test": {"users": 40, "unreachable_targets": 20}},
            ["20 of 40 test targets are in the history of their user already, and evaluate.filter_seen=true keeps seen "
             "items out of every list: evaluate.filter_seen=false ranks them"],
        ),
        (
            {"future_share": 0.6, "boundary_share": 0.55},
            ["split.test_fraction=0.1, but 60.0% of the interactions are in the future, because 5,500 interactions "
             "(55.0%) have the time at which it begins"],
        ),
        (
            {"future_share": 2 / 12, "boundary_share": 1 / 12,
             "filtered": {"interactions": 12}, "tied_interactions": 0},
            ["split.test_fraction=0.1, but 16.7% of the interactions are in the future, because the log is so small"],
        ),
        ({"test_fraction": None, "future_share": None, "boundary_share": None}, []),
        ({"future_share": 0.119}, []),  # off by less than a fifth
    ],
)  # fmt: skip
def test_what_matters_is_said(changed: dict[str, Any], said: list[str]):
    assert split_remarks(Config(), {**PLAIN, **changed}) == said
    assert split_remarks(dataclasses.replace(Config(), dataset="twin:zvuk"), {**PLAIN, **changed}) == []
