"""What the accuracy study found, as numbers: accuracy beside published figures, the trade-off of sampling, presets."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.config import PRESET_KEYS
from cutrec.nested import nest
from pipelines.study import trials
from pipelines.study.trials import Row, Search, Trial, chosen, runs_of, trade_off, winners

PUBLISHED = Path(__file__).parents[1] / "reference" / "published_leave_one_out.csv"
METRICS = ("ndcg_at_10", "recall_at_10", "coverage_at_10")


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds."""

    mean: float
    std: float
    seeds: int

    def __str__(self) -> str:
        """As tables write it."""
        if self.seeds == 1:
            return f"{self.mean:.4f} (one seed)"
        few = f" ({self.seeds} seeds)" if self.seeds < len(trials.FINAL_SEEDS) else ""
        return f"{self.mean:.4f} +- {self.std:.4f}{few}"


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation (divisor n - 1); None without values."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def accuracy_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each data set and contender whose search is complete."""
    table = []
    for search, contender, best in winners(rows):
        point = Trial.of("final", search.dataset, contender, best, trials.FINAL_SEEDS[0]).point
        metrics = _metrics(rows, search.dataset, best)
        ndcg = metrics["ndcg_at_10"]
        known = published(search.dataset, point.model, point.loss, point.num_negatives)
        searched = runs_of(rows, "search", search.dataset, best, "ok")
        table.append(
            {
                "dataset": search.dataset,
                "contender": contender,
                "trials": _trials_run(rows, search, contender, "ok"),
                "chosen": in_words(best, search),
                "validation_ndcg_at_10": searched[-1]["validation_ndcg_at_10"] if searched else None,
                **metrics,
                "published_ndcg_at_10": known and known[0],
                "published_by": known and known[1],
                "reached": None if ndcg is None or known is None else ndcg.mean + ndcg.std >= known[0],
            }
        )
    return table


def unfinished(rows: Sequence[Row]) -> list[str]:
    """A line for each search that has begun and is not complete; one line if no search was run."""
    if not any(row["kind"] == "search" for row in rows):
        return ["No search has been run yet."]
    found = []
    for search in trials.SEARCHES:
        for contender in search.contenders:
            run, planned = _trials_run(rows, search, contender), len(search.candidates)
            if 0 < run < planned:
                found.append(f"Not complete: {search.dataset} {contender}, {run} of {planned} trials.")
            elif run and chosen(rows, search, contender) is None:
                found.append(f"Failed: {search.dataset} {contender}, all of {run} trials.")
    return found


def trade_off_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each point of the trade-offs that was run.

    ``step_ms`` is the median. In an epoch of about fifty steps many are the first of their size, and are recorded;
    ``step_ms_p10`` shows the steps that are replayed.
    """
    table = []
    for search in trials.TRADE_OFFS:
        for name, settings in trade_off(rows, search).items():
            timed = runs_of(rows, "time", search.dataset, settings, "ok")
            metrics = _metrics(rows, search.dataset, settings)
            if timed or metrics["ndcg_at_10"]:
                time = {name: timed[-1][name] if timed else None for name in ("step_ms", "step_ms_p10")}
                table.append({"dataset": search.dataset, "point": name, **time, **metrics})
    return table


def unfinished_trade_offs(rows: Sequence[Row]) -> list[str]:
    """A line for each trade-off that waits for its search or has no runs, and for points that were not timed."""
    table = trade_off_table(rows)
    found = []
    for search in trials.TRADE_OFFS:
        dataset, planned = search.dataset, len(search.candidates)
        entries = [entry for entry in table if entry["dataset"] == dataset]
        run = _trials_run(rows, search, trials.BASE)
        if run < planned:
            found.append(f"Not begun: {dataset} waits for the search of {trials.BASE}, {run} of {planned} trials.")
        elif not trade_off(rows, search):
            found.append(f"Not begun: {dataset}, the search of {trials.BASE} failed.")
        elif not entries:
            found.append(f"Not begun: {dataset}, none of {len(trials.SAMPLING_POINTS)} points.")
        untimed = [entry["point"] for entry in entries if entry["step_ms"] is None]
        if untimed:
            found.append(f"Not timed, so not in the picture: {dataset}, {'; '.join(untimed)}.")
    return found


def published(dataset: str, model: str, loss: str, num_negatives: int) -> tuple[float, str] | None:
    """The best published NDCG@10 of a loss (of any loss if the publication names none), and its source."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        found = [
            (float(row["ndcg_at_10"]), row["source"])
            for row in csv.DictReader(file)
            if (row["dataset"], row["model"]) == (dataset, model)
            and row["loss"] in ("", loss)
            and (row["num_negatives"] == "" or loss == "bce" or int(row["num_negatives"]) == num_negatives)
        ]
    return max(found, default=None)


def in_words(settings: dict[str, Any], search: Search) -> str:
    """The values that the search chose, of the keys that its candidates vary."""
    own = dict.fromkeys(key for candidate in search.candidates for key in candidate)
    return ", ".join(f"{key.split('.')[-1]} {settings[key]}" for key in own if key in settings)


UNVARIED = {
    "backbone.blocks": 2,
    "backbone.scale_embeddings": False,
    "train.learning_rate": 0.001,
    "train.averaging": 0.0,
    "train.window": None,
}
"""What a candidate had if it does not say so; left out of a preset, these keys would be ``auto``."""


def presets(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What the searches chose, as the section ``presets`` of params.yaml takes it, keys in that file's order."""
    found: dict[str, dict[str, Any]] = {}
    for search, contender, best in winners(rows):
        nested = nest(UNVARIED | best)
        name = f"{search.dataset}_{contender}".replace(" ", "_")
        found[name] = {key: nested[key] for key in PRESET_KEYS if key in nested}
    return found


def _metrics(rows: Sequence[Row], dataset: str, settings: dict[str, Any]) -> dict[str, Spread | None]:
    """Each test metric over the seeds of the final runs."""
    finals = runs_of(rows, "final", dataset, settings, "ok")
    return {metric: spread([row[metric] for row in finals]) for metric in METRICS}


def _trials_run(rows: Sequence[Row], search: Search, contender: str, *statuses: str) -> int:
    """How many candidates have been run, or have a run that ended with one of the statuses."""
    return sum(bool(runs_of(rows, "search", search.dataset, each, *statuses)) for each in search.settings(contender))
