"""What a reader must know about a split before its metrics: the same lines on the console and on the page."""

from typing import Any

from cutrec.config import Config

NOTABLE = 0.01
"""The smallest share of ties, and of unreachable targets, that is worth a remark."""
TOLERANCE = 0.2
"""The share of the future may exceed ``split.test_fraction`` by this part of it."""


def split_remarks(config: Config, split: dict[str, Any]) -> list[str]:
    """Remarks on the summary of a split; none for a synthetic log, which has no accuracy."""
    if config.dataset.startswith("twin:"):
        return []
    found = (_duplicates(split), _ties(split), _future(split), _unreachable(split))
    return [line for line in found if line]


def _duplicates(split: dict[str, Any]) -> str:
    count, total = split["duplicate_interactions"], split["filtered"]["interactions"]
    if count == 0:
        return ""
    copies = split["copies_of_every_row"]
    often = f"every row occurs at least {copies} times, and " if copies > 1 else ""
    return (
        f"{often}{count:,} of {total:,} interactions ({count / total:.1%}) repeat the user, item and time of another: "
        "download.duplicates=drop keeps one of each"
    )


def _ties(split: dict[str, Any]) -> str:
    count, total = split["tied_interactions"], split["filtered"]["interactions"]
    if count < NOTABLE * total:
        return ""
    why = " (the dates have no time of day)" if split["dates_only"] else ""
    order = "they keep the order of rows (download.ties=row_order)"
    if split["ties"] == "shuffle":
        order = "their order is random; if the rows are in order, set download.ties=row_order"
    return f"{count:,} of {total:,} interactions ({count / total:.1%}) share user and time with another{why}: {order}"


def _future(split: dict[str, Any]) -> str:
    asked, taken = split["test_fraction"], split["future_share"]
    if taken is None or taken <= (1 + TOLERANCE) * asked:
        return ""
    at_once = round(split["boundary_share"] * split["filtered"]["interactions"])
    why = "the log is so small"
    if at_once > 1:
        why = f"{at_once:,} interactions ({split['boundary_share']:.1%}) have the time at which it begins"
    return f"split.test_fraction={asked:g}, but {taken:.1%} of the interactions are in the future, because {why}"


def _unreachable(split: dict[str, Any]) -> str:
    test, total = split["test"]["unreachable_targets"], split["test"]["users"]
    if test < NOTABLE * total:
        return ""
    cure = "evaluate.filter_seen=false ranks them"
    if split["copies_of_every_row"] > 1:
        cure = "download.duplicates=drop removes the copies that cause it"
    return (
        f"{test:,} of {total:,} test targets are in the history of their user already, and evaluate.filter_seen=true "
        f"keeps seen items out of every list: {cure}"
    )
