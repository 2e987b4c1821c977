"""Remarks on a run: only what matters, with its numbers and its cure."""

import dataclasses
from typing import Any

import pytest

from cutrec.config_point import Config
from cutrec.reporting.remarks import split_remarks, training_remarks
from rec_models.config import Train

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
             "are in order, set -S download.ties=row_order"],
        ),
        (
            {"tied_interactions": 10_000, "dates_only": True, "ties": "row_order"},
            ["10,000 of 10,000 interactions (100.0%) share user and time with another (the dates have no time of day): "
             "they keep the order of rows (download.ties)"],
        ),
        (
            {"duplicate_interactions": 5},
            ["5 of 10,000 interactions (0.1%) repeat the user, item and time of another: -S download.duplicates=drop "
             "keeps one of each"],
        ),
        (
            {"duplicate_interactions": 7500, "copies_of_every_row": 3,
             "test": {"users": 40, "unreachable_targets": 40}},
            ["40 of 40 test targets are in the history of their user already, and evaluate.filter_seen keeps seen "
             "items out of every list: -S download.duplicates=drop removes the copies that cause it",
             "every row occurs at least 3 times, and 7,500 of 10,000 interactions (75.0%) repeat the user, item and "
             "time of another: -S download.duplicates=drop keeps one of each"],
        ),
        (
            {"test": {"users": 40, "unreachable_targets": 20}},
            ["20 of 40 test targets are in the history of their user already, and evaluate.filter_seen keeps seen "
             "items out of every list: -S evaluate.filter_seen=false ranks seen items too"],
        ),
        (
            {"future_share": 0.6, "boundary_share": 0.55},
            ["60.0% of the interactions are in the future, not 10.0% (split.test_fraction), because 5,500 interactions "
             "(55.0%) have the time at which it begins: finer times, or -S split.strategy=leave_one_out, avoid this"],
        ),
        (
            {"future_share": 2 / 12, "boundary_share": 1 / 12,
             "filtered": {"interactions": 12}, "tied_interactions": 0},
            ["16.7% of the interactions are in the future, not 10.0% (split.test_fraction), because the log is so "
             "small"],
        ),
        ({"test_from": "2023-01-01", "future_share": 0.6}, []),
        ({"test_fraction": None, "future_share": None, "boundary_share": None}, []),
        ({"future_share": 0.119}, []),  # off by less than a fifth
    ],
)  # fmt: skip
def test_what_matters_is_said(changed: dict[str, Any], said: list[str]):
    assert [remark.line for remark in split_remarks(Config(), {**PLAIN, **changed})] == said
    assert split_remarks(dataclasses.replace(Config(), dataset="twin:zvuk"), {**PLAIN, **changed}) == []


TRAINED: dict[str, Any] = {"best_epoch": 16, "epochs": 20, "unread_share": 0.0499, "validation_ndcg@10": 0.5}


@pytest.mark.parametrize(
    ("changed", "users", "config", "chips", "changes"),
    [
        ({}, 1000, Config(), [], {}),
        ({"best_epoch": 20}, 1000, Config(), ["Best epoch was the last"], {"train.max_epochs": 40}),
        ({"best_epoch": 3, "epochs": 3}, 1000, Config(), [], {}),  # patience was used up, whatever the best epoch
        ({"unread_share": 0.654}, 1000, Config(), ["Never trained on: 65% of events"], {"train.window": 32}),
        ({"unread_share": 0.654}, 1000, Config(max_seq_len=2), ["Never trained on: 65% of events"],
         {"train.window": 1}),
        ({"unread_share": 0.2}, 1000, Config(train=Train(window=8)), [], {}),  # histories of one item
        ({"unread_share": 0.2, "best_epoch": 20}, 1000, Config(train=Train(init_from="data/train")), [], {}),
        # half an interval is at most 1.96 sqrt(0.5 * 0.5 / n): a fifth of 0.5 at n = 96.04
        ({}, 97, Config(), [], {}),
        ({}, 96, Config(), ["Noisy validation"], {}),
        ({"validation_ndcg@10": 0.0}, 96, Config(), [], {}),
    ],
)  # fmt: skip
def test_what_limits_a_training_is_said_with_the_settings_that_help(
    changed: dict[str, Any], users: int, config: Config, chips: list[str], changes: dict[str, Any]
):
    found = training_remarks(config.train, config.max_seq_len, {**TRAINED, **changed}, users)
    assert [remark.chip for remark in found] == chips
    assert {key: value for remark in found for key, value in remark.changes.items()} == changes
    assert all(f"{key}={value}" in found[0].cure for key, value in changes.items())
