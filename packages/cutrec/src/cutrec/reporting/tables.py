"""The sentences and tables of the report, from the outputs of the stages. Needs the standard library only."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.config_point import AUTO_KEYS, Config, as_written
from cutrec.nested import flatten
from cutrec.reporting.run_outputs import RunOutputs
from rec_data.schema import UNITS

ACCURACY = {"ndcg": "NDCG", "recall": "Recall", "mrr": "MRR"}
"""With one target per user, the other metrics follow from these."""
MEANINGS = {
    "NDCG": "1 if the target comes first, less the lower its rank, 0 below rank k",
    "Recall": "share of users whose target is among the first k",
    "MRR": "one divided by the rank of the target, 0 below rank k",
    "Coverage": "share of all items that occur in the lists of any user",
    "Surprisal": "how rare the recommended items are: 0 if all users have them, 1 if a single one has",
    "Unexpectedness": "share of the list that the ranking by popularity does not have in its first k",
    "Serendipity": "hits, each weighed by how much higher it is ranked than by popularity, divided by k",
    "Novelty": "share of the list that the user has not had before",
    "Diversity": "share of pairs of items in the list that are of different groups",
}
BEYOND = ("coverage", "surprisal", "unexpectedness", "serendipity", "novelty", "diversity")
"""The metrics beyond accuracy; some are left out where the run has nothing to compute them from."""
KEY_METRICS = {
    "ndcg": ("NDCG", "1 if the target always comes first"),
    "hitrate": ("Hit rate", "share of users with the target in the first ten"),
    "coverage": ("Coverage", "share of items in any list"),
}
SHOWN_HITS = 5
"""Users of 100, or of 1,000, that the headline counts at least."""
REFERENCES = {"train": "the training log", "test_input": "the histories of the test users"}
SIZES = {
    "log": "the log as read",
    "filtered": "after the filters",
    "train": "training",
    "validation": "validation",
    "test": "test",
    "untargeted": "users with a future, not tested",
}
SEGMENTS = {
    "history": "Items in the user's history",
    "days": "Days from the user's last event to the target",
    "popularity": "Interactions of the target in training",
    "known_target": "Whether training has the target",
}
KNOWN = {"0": "no", "1": "yes"}


class Cell(NamedTuple):
    """A number and its interval as texts; the interval is empty where there is none."""

    value: str
    interval: str


def title(config: Config) -> str:
    """Model, loss and data set; of a path its last part."""
    dataset = config.dataset if is_twin(config) else Path(config.dataset).name
    return f"{config.model} with {config.loss} on {dataset}"


def is_twin(config: Config) -> bool:
    """Whether the log is synthetic."""
    return config.dataset.startswith("twin:")


def measured(config: Config) -> str:
    """The settings that change the meaning of the numbers."""
    seen = "left out of the lists" if config.evaluate.filter_seen else "ranked too"
    return (
        f"Items of a user's own history are {seen} (evaluate.filter_seen). Coverage and Surprisal count in "
        f"{REFERENCES[config.evaluate.reference]} (evaluate.reference)."
    )


def headline(run: RunOutputs) -> list[str]:
    """The result: NDCG@10 beside popularity, then what it means for users. Of a synthetic log its cost."""
    training, evaluation = run.training, run.evaluation
    if run.details is None:
        cost = f"An epoch took {training['epoch_seconds']:.2f} s and {training['peak_memory_gib']:.2f} GiB"
        text = "A twin has the shape of a real log and nothing to learn: no accuracy is reported."
        return [text, f"{cost} on {training['device']}."]
    model, baseline = evaluation["ndcg@10"], evaluation["popularity"]["ndcg@10"]
    rows = [
        row for row in run.details["intervals"] if (row["ranking"], row["metric"], row["k"]) == ("model", "ndcg", "10")
    ]
    bounds = [f" (95% interval {cell(row).interval})" for row in rows if row["low"]]
    times = f", {model / baseline:.1f} times that of the ranking by popularity ({baseline:.4f})" if baseline else ""
    first = f"NDCG@10 is {model:.4f}{''.join(bounds)}{times}, over {evaluation['users']:,} test users."
    hits, popular = evaluation["hitrate@10"], evaluation["popularity"]["hitrate@10"]
    most = max(hits, popular)
    users = next((n for n in (100, 1000) if most == 0 or most * n >= SHOWN_HITS), 10_000)
    return [
        first,
        f"For {hits * users:.0f} of {users:,} users, the item that they chose next is among the first ten recommended; "
        f"with the ten most popular items, for {popular * users:.0f}.",
    ]


def paired(run: RunOutputs) -> str:
    """The difference from the ranking by popularity, user by user."""
    for row in run.details["comparison"] if run.details else []:
        if row["metric"] == "ndcg@10":
            bounds = f"{float(row['low']):+.4f} to {float(row['high']):+.4f}" if row["low"] else "of too few users"
            return (
                f"User by user, the model's NDCG@10 differs from that of popularity by {float(row['difference']):+.4f} "
                f"(95% interval {bounds}; permutation test: p = {float(row['p_value']):.2g}, "
                f"{int(row['users']):,} users)."
            )
    return ""


def key_numbers(run: RunOutputs) -> list[tuple[str, str, str]]:
    """Value, name and explanation of the numbers that a reader looks for first."""
    training, evaluation = run.training, run.evaluation
    found = []
    if run.details:
        for metric, (name, meaning) in KEY_METRICS.items():
            value, popular = evaluation[f"{metric}@10"], evaluation["popularity"][f"{metric}@10"]
            found.append((f"{value:.4f}", f"{name}@10", f"{meaning}; popularity {popular:.4f}"))
    epochs = training["epochs"]
    time = _duration(epochs * training["whole_epoch_seconds"])
    return [
        *found,
        (
            time,
            "of training",
            f"{epochs} epoch{'s' if epochs != 1 else ''} of {training['epoch_seconds']:.2f} s, with validation",
        ),
        (f"{training['peak_memory_gib']:.2f} GiB", "of memory", training["peak_memory_kind"]),
    ]


def cell(row: dict[str, str]) -> Cell:
    """A row of intervals.csv or segments.csv as it is shown."""
    missing = "" if row["metric"] == "coverage" else "too few users"
    interval = f"{float(row['low']):.4f} to {float(row['high']):.4f}" if row["low"] else missing
    return Cell(f"{float(row['value']):.4f}", interval)


def cutoffs(intervals: list[dict[str, str]]) -> list[str]:
    """The k of the metrics."""
    return list(dict.fromkeys(row["k"] for row in intervals))


def metric_rows(intervals: list[dict[str, str]]) -> list[tuple[str, str, list[Cell]]]:
    """Metric, ranking, and a cell for each k."""
    cells = {(row["metric"], row["ranking"], row["k"]): cell(row) for row in intervals}
    return [
        (name, ranking, [cells[metric, ranking, k] for k in cutoffs(intervals)])
        for metric, name in ACCURACY.items()
        for ranking in ("model", "popularity")
    ]


def beyond_metrics(intervals: list[dict[str, str]]) -> list[str]:
    """The metrics of `BEYOND` that the run has."""
    found = {row["metric"] for row in intervals}
    return [metric for metric in BEYOND if metric in found]


def meanings(intervals: list[dict[str, str]]) -> dict[str, str]:
    """The metrics of the page and what they mean."""
    shown = {*ACCURACY.values(), *(metric.capitalize() for metric in beyond_metrics(intervals))}
    return {name: meaning for name, meaning in MEANINGS.items() if name in shown}


def beyond_rows(intervals: list[dict[str, str]]) -> list[list[Cell | str]]:
    """The metrics beyond accuracy at each k of both rankings."""
    known = {(row["ranking"], row["metric"], row["k"]): cell(row) for row in intervals}
    return [
        [ranking, k, *(known.get((ranking, metric, k), "") for metric in beyond_metrics(intervals))]
        for ranking in ("model", "popularity")
        for k in cutoffs(intervals)
    ]


def popularity_rows(popularity: list[dict[str, str]]) -> list[list[str]]:
    """Popularity and concentration of what test users chose, and of both rankings at each k."""
    rows = []
    for row in popularity:
        first = ["what users chose", ""] if row["what"] == "consumed" else [row["ranking"], row["k"]]
        names = ("mean_count", "median_count", "tail_share", "gini", "entropy")
        mean, median, tail, gini, entropy = (float(row[name]) for name in names)
        distinct = f"{int(row['distinct_items']):,}"
        rows.append(
            [*first, f"{mean:,.1f}", f"{median:,.0f}", f"{tail:.1%}", distinct, f"{gini:.3f}", f"{entropy:.2f}"]
        )
    return rows


def segment_tables(segments: list[dict[str, str]]) -> list[tuple[str, list[list[Cell | str]]]]:
    """For each property its name and its rows: segment, users, then NDCG@10 and hit rate of model and popularity."""
    tables = []
    for by, name in SEGMENTS.items():
        chosen = [row for row in segments if row["by"] == by]
        if not chosen:  # days, of a log without a clock
            continue
        cells = {(row["segment"], row["metric"], row["ranking"]): cell(row) for row in chosen}
        users = {row["segment"]: int(row["users"]) for row in chosen}
        columns = [(metric, ranking) for metric in ("ndcg", "hitrate") for ranking in ("model", "popularity")]
        rows: list[list[Cell | str]] = [
            [
                KNOWN[segment] if by == "known_target" else segment,
                f"{number:,}",
                *(cells[segment, metric, ranking] for metric, ranking in columns),
            ]
            for segment, number in users.items()
        ]
        tables.append((name, rows))
    return tables


def resource_rows(run: RunOutputs) -> list[tuple[str, str]]:
    """Time and memory of training and of ranking."""
    training, evaluation = run.training, run.evaluation
    whole = training["epochs"] * training["whole_epoch_seconds"]
    return [
        ("training, all epochs with start, validation and checkpoints", _duration(whole)),
        ("per epoch, training only", f"{training['epoch_seconds']:.2f} s"),
        ("per epoch, with its share of start, validation and checkpoints", f"{training['whole_epoch_seconds']:.2f} s"),
        ("share of the training loop that waited for batches", f"{100 * training['waited_share']:.1f} %"),
        ("tokens per second", f"{training['tokens_per_second']:,}"),
        ("peak memory of training", f"{training['peak_memory_gib']:.2f} GiB ({training['peak_memory_kind']})"),
        ("ranking and writing the lists", _duration(evaluation["rank_seconds"])),
        ("users ranked per second", f"{evaluation['users_per_second']:,.0f}"),
        ("peak memory of ranking", f"{run.memory['peak_gib']:.2f} GiB ({run.memory['kind']})"),
        ("device of training", training["device"]),
        ("device of ranking", evaluation["device"]),
        ("precision of training", training["precision"]),
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{rest:.1f} s" if minutes < 1 else f"{minutes:,.0f} min {rest:.0f} s"


def size_rows(split: dict[str, Any]) -> list[tuple[str, ...]]:
    """Users, items, interactions and interactions per user of the log and of each part of the split."""
    rows = []
    for part, name in SIZES.items():
        if part in split:
            found = [split[part].get(key) for key in ("users", "items", "interactions")]
            users, _, interactions = found
            mean = f"{interactions / users:.1f}" if users and interactions else ""
            rows.append((name, *("" if number is None else f"{number:,}" for number in found), mean))
    return rows


def data_rows(run: RunOutputs) -> list[tuple[str, str]]:
    """Where the log comes from and what the split did, without counts of zero and unset values."""
    split = {key: value for key, value in run.split.items() if key not in (*SIZES, "dropped")}
    unit = split.pop("timestamp_unit", "s")
    for name in ("first_time", "last_time", "boundary_time"):
        if (found := split.pop(name, None)) is not None and split.get("clock", True):
            moment = datetime.fromtimestamp(found / UNITS[unit], UTC)
            split[name.removesuffix("_time")] = moment.isoformat(" ", "seconds")
    dropped = {name.replace("_", " "): count for name, count in run.split.get("dropped", {}).items() if count}
    rows = [*flat({"source": run.source}), *flat({"download": run.download}), *flat({"split": split})]
    rows += [(f"dropped: {name}", f"{count:,}") for name, count in dropped.items()]
    return [(name, value) for name, value in rows if value != "null"]


def reachable(config: Config, split: dict[str, Any]) -> str:
    """How many test targets no ranking can hit."""
    test = split["test"]
    if is_twin(config):
        return f"{test['users']:,} users are ranked."
    counts = {
        "are in the user's own history, which no list repeats": test["unreachable_targets"],
        "never occur in training": test["targets_unseen_in_train"],
    }
    found = [f"{count:,} of their targets {what}" for what, count in counts.items() if count]
    tested = f"{test['users']:,} users are tested" + (f" on {test['targets']:,} targets" if "targets" in test else "")
    return "; ".join([tested, *found]) + (". These count as misses." if found else ".")


def changed_settings(config: Config) -> list[tuple[str, Any, Any]]:
    """Key, value and default of every setting that differs from the default of params.yaml."""
    defaults, values = as_written(Config(undecided=AUTO_KEYS)), as_written(config)
    return [(key, value, defaults[key]) for key, value in values.items() if value != defaults[key]]


def flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Nested values as dotted keys and texts."""
    return [(key, show(value)) for key, value in flatten(values).items()]


def show(value: object) -> str:
    """A value as text for the reader."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 10_000 else f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(entry) for entry in value) or "[]"
    return str(value)
