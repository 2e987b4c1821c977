"""What limits the result of a run, with its numbers and its cure: the same lines on the console and on the page.

The stage ``split`` prints `split_remarks` and the stage ``train`` prints `training_remarks`. The report shows all of
them, and those of `cutrec.reporting.limits` on the test: a chip at the top for each, which leads to the whole text.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cutrec.config_point import Config
from rec_data.sequences.examples import UNREAD, half_overlapping
from rec_data.stated import stated
from rec_models.config import Train

DROP = {"download.duplicates": "drop"}
NOTABLE = 0.01
"""The smallest share of ties, and of unreachable targets, that is worth a remark."""
TOLERANCE = 0.2
"""The share of the future may exceed ``split.test_fraction`` by this part of it."""
NOISY = 0.2
"""Half an interval of the validation's NDCG@10, as a part of its value, from which on the choice of the epoch is partly
chance."""
MANY_UNREACHABLE = 0.1
"""Share of unreachable validation targets from which on longer training is not advised."""


class Remark(NamedTuple):
    """Something that limits what the numbers of a run mean."""

    name: str
    """The anchor on the page."""
    chip: str
    """A few words, with the number."""
    section: str
    """The anchor of the section that explains it: accuracy, training or data."""
    text: str
    """What was found, on one line."""
    cure: str
    """What helps, on one line; empty if nothing is known to."""
    changes: Mapping[str, Any] = {}
    """The settings that do what the cure says, by dotted key."""

    @property
    def line(self) -> str:
        """The whole remark, as the console shows it."""
        return f"{self.text}: {self.cure}" if self.cure else self.text


def split_remarks(config: Config, split: Mapping[str, Any]) -> list[Remark]:
    """Remarks on the summary of a split; none for a synthetic log, which has no accuracy."""
    if config.dataset.startswith("twin:"):
        return []
    found = (_unreachable(split), _duplicates(split), _ties(split), _future(split))
    return [remark for remark in found if remark]


def training_remarks(
    settings: Train, max_seq_len: int, training: Mapping[str, Any], validation_users: int
) -> list[Remark]:
    """Remarks on ``data/train/metrics.json`` of a log that is not synthetic.

    Args:
        settings: the training loop's.
        max_seq_len: the longest history that the network reads.
        training: the content of the file.
        validation_users: the users that validation ranks for.
    """
    found = (
        _last_epoch(settings, training),
        _unread(settings, max_seq_len, training),
        _noise(training, validation_users),
    )
    return [remark for remark in found if remark]


def no_gain(where: str, model: float, popularity: float, unreachable: float, *, updated: bool = False) -> Remark:
    """The model is not better than the ranking by popularity.

    Args:
        where: test or validation.
        model: NDCG@10.
        popularity: that of the ranking by popularity.
        unreachable: share of the targets that no list can hold, because their user has seen them.
        updated: whether a trained model was trained further, whose split prints no notes.
    """
    cure = "more train.patience and train.max_epochs (pointwise losses start slowly), or another loss, may help"
    if unreachable >= MANY_UNREACHABLE:
        cure = (
            f"{unreachable:.0%} of the {where} targets are in the history of their user already, and "
            "evaluate.filter_seen keeps such items out of every list"
        )
        cure += "" if updated else "; the note on the split names the cure"
    text = (
        f"the {where} NDCG@10 of the model, {model:.4f}, is not above that of the ranking by popularity, "
        f"{popularity:.4f}"
    )
    return Remark("popularity", "No gain over popularity", "accuracy", text, cure)


def _duplicates(split: Mapping[str, Any]) -> Remark | None:
    count, total = split["duplicate_interactions"], split["filtered"]["interactions"]
    if count == 0:
        return None
    copies = split["copies_of_every_row"]
    often = f"every row occurs at least {copies} times, and " if copies > 1 else ""
    text = f"{often}{count:,} of {total:,} interactions ({count / total:.1%}) repeat the user, item and time of another"
    cure = f"{stated(DROP)} keeps one of each"
    return Remark("duplicates", f"Duplicates: {count / total:.1%} of events", "data", text, cure, DROP)


def _ties(split: Mapping[str, Any]) -> Remark | None:
    count, total = split["tied_interactions"], split["filtered"]["interactions"]
    if count < NOTABLE * total:
        return None
    why = " (the dates have no time of day)" if split["dates_only"] else ""
    text = f"{count:,} of {total:,} interactions ({count / total:.1%}) share user and time with another{why}"
    chip = f"Ties in time: {count / total:.0%} of events"
    if split["ties"] != "shuffle":
        return Remark("ties", chip, "data", text, "they keep the order of rows (download.ties)")
    cure = f"their order is random; if the rows are in order, set {stated({'download.ties': 'row_order'})}"
    return Remark("ties", chip, "data", text, cure)


def _future(split: Mapping[str, Any]) -> Remark | None:
    asked, taken = split["test_fraction"], split["future_share"]
    if taken is None or split.get("test_from") is not None or taken <= (1 + TOLERANCE) * asked:
        return None
    at_once = round(split["boundary_share"] * split["filtered"]["interactions"])
    why, cure = "the log is so small", ""
    if at_once > 1:
        why = f"{at_once:,} interactions ({split['boundary_share']:.1%}) have the time at which it begins"
        cure = f"finer times, or {stated({'split.strategy': 'leave_one_out'})}, avoid this"
    text = f"{taken:.1%} of the interactions are in the future, not {asked:.1%} (split.test_fraction), because {why}"
    return Remark("future", f"Test share {taken:.0%}, not {asked:.0%}", "data", text, cure)


def _unreachable(split: Mapping[str, Any]) -> Remark | None:
    test, total = split["test"]["unreachable_targets"], split["test"].get("targets", split["test"]["users"])
    if test < NOTABLE * total:
        return None
    changes: dict[str, Any] = {"evaluate.filter_seen": False}
    cure = f"{stated(changes)} ranks seen items too"
    if split["copies_of_every_row"] > 1:
        cure, changes = f"{stated(DROP)} removes the copies that cause it", {}
    text = (
        f"{test:,} of {total:,} test targets are in the history of their user already, and evaluate.filter_seen keeps "
        "seen items out of every list"
    )
    return Remark("repeats", f"Repeats: {test / total:.0%} of targets", "data", text, cure, changes)


def _last_epoch(settings: Train, training: Mapping[str, Any]) -> Remark | None:
    last = settings.max_epochs
    if not training["best_epoch"] == training["epochs"] == last or settings.init_from is not None:
        return None  # an update is meant to be short
    text = f"the best of {last} epochs by validation NDCG@10 was the last one, so longer training may be better"
    longer = {"train.max_epochs": 2 * last}
    cure = f"{stated(longer)} trains longer, until train.patience ends it"
    return Remark("last-epoch", "Best epoch was the last", "training", text, cure, longer)


def _unread(settings: Train, max_seq_len: int, training: Mapping[str, Any]) -> Remark | None:
    share = training["unread_share"]
    if share <= UNREAD or settings.window is not None or settings.init_from is not None:
        return None  # an update keeps the window of its model
    changes = {"train.window": half_overlapping(max_seq_len)}
    text = (
        f"{share:.0%} of the training interactions are never read, because training takes only the last items of each "
        f"history (max_seq_len={max_seq_len})"
    )
    cure = f"{stated(changes)} slides over whole histories, which makes epochs longer"
    return Remark("unread", f"Never trained on: {share:.0%} of events", "training", text, cure, changes)


def _noise(training: Mapping[str, Any], users: int) -> Remark | None:
    """Validation NDCG@10, whose standard error is at most ``sqrt(value (1 - value) / users)``: it is in [0, 1]."""
    value = training["validation_ndcg@10"]
    if users == 0 or value == 0:
        return None
    half = 1.96 * math.sqrt(value * (1 - value) / users)
    if half <= NOISY * value:
        return None
    text = (
        f"validation has {users:,} users, so its NDCG@10 of {value:.4f} may be off by up to {half:.4f} (95%), and the "
        "choice of the best epoch is partly chance"
    )
    by_time = stated({"split.validation": "time"})
    larger = f"a larger split.validation_users, or split.test_fraction with {by_time}"
    cure = f"more users make it certain (temporal split: {larger})"
    return Remark("noise", "Noisy validation", "training", text, cure)
