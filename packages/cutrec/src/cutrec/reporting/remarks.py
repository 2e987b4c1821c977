"""What limits the result of a run, with its numbers and its cure: the same lines on the console and on the page.

The stage ``split`` prints `split_remarks`, the stage ``train`` prints `training_remarks`, and the report shows
`all_remarks`: a chip at the top for each, which leads to the section with the whole text.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cutrec.config import Config

if TYPE_CHECKING:
    from cutrec.reporting.run_outputs import RunOutputs

NOTABLE = 0.01
"""The smallest share of ties, and of unreachable targets, that is worth a remark."""
TOLERANCE = 0.2
"""The share of the future may exceed ``split.test_fraction`` by this part of it."""
WIDE = 0.1
"""Half an interval of the test's NDCG@10, as a part of its value, from which on the test users are few."""
NOISY = 0.2
"""The same for validation, which only chooses the epoch."""
UNREAD = 0.05
"""The smallest share of interactions that training never reads that is worth a remark."""
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


def all_remarks(run: "RunOutputs") -> list[Remark]:
    """What limits a run's result, the most important first; for a synthetic log only that it is one."""
    config = run.config
    found = []
    if config.paper_faithful:
        text = (
            "the known defects of the paper's own code are repeated, to compare with its tables (paper_faithful=true)"
        )
        found.append(Remark("defects", "Defects of the paper's code", "accuracy", text, ""))
    if config.dataset.startswith("twin:"):
        text = "a synthetic log has the shape of a real one and nothing to learn, so no accuracy is reported"
        return [*found, Remark("synthetic", "Synthetic log: no accuracy", "data", text, "")]
    users = run.split.get("validation", {}).get("users", 0)
    return [*found, *_tested(run), *split_remarks(config, run.split), *training_remarks(config, run.training, users)]


def split_remarks(config: Config, split: Mapping[str, Any]) -> list[Remark]:
    """Remarks on the summary of a split; none for a synthetic log, which has no accuracy."""
    if config.dataset.startswith("twin:"):
        return []
    found = (_unreachable(split), _duplicates(split), _ties(split), _future(split))
    return [remark for remark in found if remark]


def training_remarks(config: Config, training: Mapping[str, Any], validation_users: int) -> list[Remark]:
    """Remarks on ``data/train/metrics.json``; none for a synthetic log.

    Args:
        config: the run's settings.
        training: the content of the file.
        validation_users: the users that validation ranks for.
    """
    if config.dataset.startswith("twin:"):
        return []
    found = (_last_epoch(config, training), _unread(config, training), _noise(training, validation_users))
    return [remark for remark in found if remark]


def no_gain(where: str, model: float, popularity: float, unreachable: float) -> Remark:
    """The model is not better than the ranking by popularity.

    Args:
        where: test or validation.
        model: NDCG@10.
        popularity: that of the ranking by popularity.
        unreachable: share of the targets that no list can hold, because their user has seen them.
    """
    cure = "more train.patience and train.max_epochs (pointwise losses start slowly), or another loss, may help"
    if unreachable >= MANY_UNREACHABLE:
        cure = (
            f"{unreachable:.0%} of the {where} targets are in the history of their user already, and "
            "evaluate.filter_seen=true keeps such items out of every list; the note on the split names the cure"
        )
    text = (
        f"the {where} NDCG@10 of the model, {model:.4f}, is not above that of the ranking by popularity, "
        f"{popularity:.4f}"
    )
    return Remark("popularity", "No gain over popularity", "accuracy", text, cure)


def _tested(run: "RunOutputs") -> list[Remark]:
    """Remarks on the test: no certain gain over popularity, few users."""
    assert run.details is not None
    found = []
    model, baseline = run.evaluation["ndcg@10"], run.evaluation["popularity"]["ndcg@10"]
    paired = [row for row in run.details["comparison"] if row["metric"] == "ndcg@10"]
    test = run.split["test"]
    if model <= baseline:
        found.append(no_gain("test", model, baseline, test["unreachable_targets"] / test["users"]))
    elif any(float(row["low"]) <= 0 for row in paired):
        text = f"the gain of {model - baseline:.4f} NDCG@10 over popularity can be chance: its 95% interval includes 0"
        cure = "more test users (split.test_fraction) narrow the interval, more training can raise the gain"
        found.append(Remark("popularity", "Gain over popularity uncertain", "accuracy", text, cure))
    for row in run.details["intervals"]:
        if (row["ranking"], row["metric"], row["k"]) == ("model", "ndcg", "10") and row["low"] and model > 0:
            half = (float(row["high"]) - float(row["low"])) / 2
            if half > WIDE * model:
                users = run.evaluation["users"]
                chip = f"{users:,} test users: ±{half / model:.0%}"
                text = f"with {users:,} test users, NDCG@10 is known to within {half / model:.0%} of its value only"
                cure = "smaller differences between two runs show only user by user (uv run cutrec compare)"
                if run.config.split.strategy == "temporal":
                    cure += "; a larger split.test_fraction tests more users"
                found.append(Remark("few-users", chip, "accuracy", text, cure))
    return found


def _duplicates(split: Mapping[str, Any]) -> Remark | None:
    count, total = split["duplicate_interactions"], split["filtered"]["interactions"]
    if count == 0:
        return None
    copies = split["copies_of_every_row"]
    often = f"every row occurs at least {copies} times, and " if copies > 1 else ""
    text = f"{often}{count:,} of {total:,} interactions ({count / total:.1%}) repeat the user, item and time of another"
    cure = "download.duplicates=drop keeps one of each"
    return Remark(
        "duplicates", f"Duplicates: {count / total:.1%} of events", "data", text, cure, {"download.duplicates": "drop"}
    )


def _ties(split: Mapping[str, Any]) -> Remark | None:
    count, total = split["tied_interactions"], split["filtered"]["interactions"]
    if count < NOTABLE * total:
        return None
    why = " (the dates have no time of day)" if split["dates_only"] else ""
    text = f"{count:,} of {total:,} interactions ({count / total:.1%}) share user and time with another{why}"
    chip = f"Ties in time: {count / total:.0%} of events"
    if split["ties"] != "shuffle":
        return Remark("ties", chip, "data", text, "they keep the order of rows (download.ties=row_order)")
    cure = "their order is random; if the rows are in order, set download.ties=row_order"
    return Remark("ties", chip, "data", text, cure)


def _future(split: Mapping[str, Any]) -> Remark | None:
    asked, taken = split["test_fraction"], split["future_share"]
    if taken is None or taken <= (1 + TOLERANCE) * asked:
        return None
    at_once = round(split["boundary_share"] * split["filtered"]["interactions"])
    why, cure = "the log is so small", ""
    if at_once > 1:
        why = f"{at_once:,} interactions ({split['boundary_share']:.1%}) have the time at which it begins"
        cure = "finer times, or split.strategy=leave_one_out, avoid this"
    text = f"{taken:.1%} of the interactions are in the future, not {asked:.1%} (split.test_fraction), because {why}"
    return Remark("future", f"Test share {taken:.0%}, not {asked:.0%}", "data", text, cure)


def _unreachable(split: Mapping[str, Any]) -> Remark | None:
    test, total = split["test"]["unreachable_targets"], split["test"]["users"]
    if test < NOTABLE * total:
        return None
    cure, changes = "evaluate.filter_seen=false ranks seen items too", {"evaluate.filter_seen": False}
    if split["copies_of_every_row"] > 1:
        cure, changes = "download.duplicates=drop removes the copies that cause it", {}
    text = (
        f"{test:,} of {total:,} test targets are in the history of their user already, and evaluate.filter_seen=true "
        "keeps seen items out of every list"
    )
    return Remark("repeats", f"Repeats: {test / total:.0%} of targets", "data", text, cure, changes)


def _last_epoch(config: Config, training: Mapping[str, Any]) -> Remark | None:
    last = config.train.max_epochs
    if not training["best_epoch"] == training["epochs"] == last:
        return None
    text = f"the best of {last} epochs by validation NDCG@10 was the last one, so longer training may be better"
    longer = {"train.max_epochs": 2 * last}
    cure = f"train.max_epochs={2 * last} trains longer, until train.patience ends it"
    return Remark("last-epoch", "Best epoch was the last", "training", text, cure, longer)


def _unread(config: Config, training: Mapping[str, Any]) -> Remark | None:
    share = training["unread_share"]
    if share < UNREAD or config.train.window is not None:
        return None
    window = max(1, 3 * config.max_seq_len // 4)
    text = (
        f"{share:.0%} of the training interactions are never read, because training takes only the last items of each "
        f"history (max_seq_len={config.max_seq_len})"
    )
    cure = f"train.window={window} slides over whole histories, which makes epochs longer"
    return Remark(
        "unread", f"Never trained on: {share:.0%} of events", "training", text, cure, {"train.window": window}
    )


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
    cure = "a larger split.validation_users makes the choice more certain"
    return Remark("noise", "Noisy validation", "training", text, cure)
