"""The sentences and tables of the report, from the outputs of the stages. Needs the standard library only."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.config import AUTO_KEYS, Config, as_written
from cutrec.nested import flatten
from cutrec.reporting.run_outputs import RunOutputs

ACCURACY = {
    "ndcg": "NDCG",
    "recall": "Recall",
    "hitrate": "Hit rate",
    "precision": "Precision",
    "map": "MAP",
    "mrr": "MRR",
}
REFERENCES = {"train": "the training log", "test_input": "the histories of the test users"}
SIZES = {
    "log": "the log as read",
    "filtered": "after the filters",
    "train": "training",
    "validation": "validation",
    "test": "test",
    "untargeted": "test users without a target",
}
SEGMENTS = {"history": "Items in the user's history", "popularity": "Interactions of the target in training"}


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


def labels(config: Config) -> list[str]:
    """Settings that change the meaning of the numbers on the page."""
    found = []
    if is_twin(config):
        found.append("twin: a synthetic log, no accuracy")
    if config.paper_faithful:
        found.append("paper_faithful: repeats the known defects of the paper's code")
    if not is_twin(config):
        found.append(f"Coverage and Surprisal count in {REFERENCES[config.evaluate.reference]}")
    seen = "are left out" if config.evaluate.filter_seen else "stay in"
    return [*found, f"items of the user's own history {seen}"]


def headline(run: RunOutputs) -> str:
    """The result in a few sentences."""
    training, evaluation = run.training, run.evaluation
    cost = f"An epoch took {training['epoch_seconds']:.2f} s and {training['peak_memory_gib']:.2f} GiB"
    cost += f" on {training['device']}."
    if "ndcg@10" not in evaluation:
        return f"A twin has the shape of a real log and nothing to learn: no accuracy is reported. {cost}"
    model, baseline = evaluation["ndcg@10"], evaluation["popularity"]["ndcg@10"]
    times = f", {model / baseline:.1f} times that of the ranking by popularity ({baseline:.4f})" if baseline else ""
    paired = ""
    for row in run.details["comparison"] if run.details else []:
        if row["metric"] == "ndcg@10":
            low, high, users = float(row["low"]), float(row["high"]), int(row["users"])
            paired = f" User by user the difference is {float(row['difference']):+.4f} (95 % interval {low:+.4f} to "
            paired += f"{high:+.4f}, paired bootstrap over {users:,} users)."
    return f"NDCG@10 is {model:.4f}{times}, over {evaluation['users']:,} test users.{paired} {cost}"


def key_numbers(run: RunOutputs) -> list[tuple[str, str, str]]:
    """Value, name and remark of the numbers that a reader looks for first."""
    training, evaluation = run.training, run.evaluation
    found = []
    if run.details:
        for row in run.details["intervals"]:
            if row["ranking"] == "model" and row["k"] == "10" and row["metric"] in ("ndcg", "hitrate", "coverage"):
                name = {**ACCURACY, "coverage": "Coverage"}[row["metric"]]
                baseline = evaluation["popularity"][f"{row['metric']}@10"]
                found.append((cell(row).value, f"{name}@10", f"popularity {baseline:.4f}"))
    epochs = training["epochs"]
    ranked = f"of {evaluation['users']:,} ranked"
    found += [
        (f"{training['epoch_seconds']:.2f} s", "per epoch", f"{epochs} epoch{'s' if epochs != 1 else ''}"),
        (f"{training['peak_memory_gib']:.2f} GiB", "peak of training", training["peak_memory_kind"]),
        (f"{evaluation['users_per_second']:,.0f}", "users per second", ranked),
    ]
    return found


def cell(row: dict[str, str]) -> Cell:
    """A row of intervals.csv or bands.csv as it is shown."""
    interval = f"{float(row['low']):.4f} to {float(row['high']):.4f}" if row["low"] and row["high"] else ""
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


def beyond_rows(intervals: list[dict[str, str]], popularity: list[dict[str, str]]) -> list[list[Cell | str]]:
    """Coverage, Surprisal and popularity at each k of both rankings, after those of what the test users chose."""
    known = {(row["ranking"], row["metric"], row["k"]): cell(row) for row in intervals}
    rows: list[list[Cell | str]] = []
    for row in popularity:
        k, ranking = row["k"], row["ranking"]
        first: list[Cell | str] = ["the targets", "", "", ""]
        if row["what"] != "consumed":
            first = [ranking, k, known[ranking, "coverage", k], known[ranking, "surprisal", k]]
        mean, median, tail, gini = (float(row[n]) for n in ("mean_count", "median_count", "tail_share", "gini"))
        distinct = f"{int(row['distinct_items']):,}"
        rows.append([*first, f"{mean:,.1f}", f"{median:,.0f}", f"{tail:.1%}", distinct, f"{gini:.3f}"])
    return rows


def segment_tables(bands: list[dict[str, str]]) -> list[tuple[str, list[list[Cell | str]]]]:
    """For each property its name and its rows: segment, users, then NDCG@10 and hit rate of model and popularity."""
    tables = []
    for by, name in SEGMENTS.items():
        chosen = [row for row in bands if row["by"] == by]
        cells = {(row["band"], row["metric"], row["ranking"]): cell(row) for row in chosen}
        users = {row["band"]: int(row["users"]) for row in chosen}
        columns = [(metric, ranking) for metric in ("ndcg", "hitrate") for ranking in ("model", "popularity")]
        rows: list[list[Cell | str]] = [
            [band, f"{number:,}", *(cells[band, metric, ranking] for metric, ranking in columns)]
            for band, number in users.items()
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
    boundary, unit = split.pop("boundary_time", None), split.pop("timestamp_unit", "s")
    if boundary is not None:
        seconds = boundary / {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
        split["boundary"] = datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    dropped = {name.replace("_", " "): count for name, count in run.split.get("dropped", {}).items() if count}
    rows = [*flat({"source": run.source}), *flat({"download": run.download}), *flat({"split": split})]
    rows += [(f"dropped: {name}", f"{count:,}") for name, count in dropped.items()]
    return [(name, value) for name, value in rows if value != "null"]


def reachable(config: Config, split: dict[str, Any]) -> str:
    """How many test targets no ranking can hit."""
    test = split["test"]
    if is_twin(config):
        return f"{test['users']:,} users are ranked."
    parts = [f"{test['users']:,} users are tested"]
    if config.evaluate.filter_seen:
        parts.append(
            f"{test['unreachable_targets']:,} of their targets are in their own history, so no list can hold them"
        )
    parts.append(f"{test['targets_unseen_in_train']:,} of their targets never occur in training")
    return "; ".join(parts) + ". All of these count as misses."


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
        return ", ".join(show(entry) for entry in value)
    return str(value)
