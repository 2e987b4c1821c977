"""What the accuracy study runs, in which order: a pure function of the rows that there are.

Three kinds of runs. ``search``: one seed of a candidate, measured on the validation targets alone. ``final``: three
other seeds of the candidate that its loss's search chose, measured on the test targets. ``time``: the steps of a
setting, with nothing else running on the machine. Every loss of a data set gets the same candidates, so the same
number of trials. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutrec import config
from cutrec.nested import nest

Kind = Literal["search", "final", "time"]
Settings = dict[str, Any]
"""Flat: a dotted key of params.yaml to its value."""
Row = dict[str, Any]
"""What `pipelines.study.runs` writes of a run."""

KINDS: tuple[Kind, ...] = ("search", "final", "time")
SEARCH_SEED = 0
FINAL_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Trial:
    """One run."""

    kind: Kind
    dataset: str
    contender: str
    """The loss (and model) that this run speaks for; a point of the trade-off carries its own name."""
    settings: str
    """JSON of `Settings`, keys sorted."""
    seed: int

    @classmethod
    def of(cls, kind: Kind, dataset: str, contender: str, settings: Settings, seed: int) -> Trial:
        """A trial of settings."""
        return cls(kind, dataset, contender, json.dumps(settings, sort_keys=True), seed)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two runs of the same thing: a setting that two contenders share is trained once."""
        return self.kind, self.dataset, self.settings, self.seed

    @property
    def point(self) -> config.Config:
        """The parameters of the run.

        Raises:
            ConfigError: settings that params.yaml would not allow.
        """
        return config.from_mapping(nest({**json.loads(self.settings), "dataset": self.dataset, "seed": self.seed}))


@dataclass(frozen=True)
class Search:
    """The candidates of one data set, the same for every contender."""

    dataset: str
    shared: Settings
    contenders: dict[str, Settings]
    """What a contender fixes: its loss, and what its definition or its publication says."""
    candidates: tuple[Settings, ...]
    """The most promising first."""

    def settings(self, contender: str) -> list[Settings]:
        """The candidates of a contender."""
        fixed = self.contenders[contender]
        return [self.shared | candidate | fixed for candidate in self.candidates]


@dataclass(frozen=True)
class TradeOff:
    """One base setting, and what the sampling of negatives does to it."""

    dataset: str
    base: str
    """The contender whose chosen settings are the base."""
    points: dict[str, Settings]


def _width(hidden: int, heads: int, dropout: float, **more: Any) -> Settings:
    return {"backbone.hidden": hidden, "backbone.heads": heads, "backbone.dropout": dropout, **more}


def _sampled(loss: str, negatives: int, sharing: str, **more: Any) -> Settings:
    return {"loss": loss, "num_negatives": negatives, "negatives.sharing": sharing, **more}


PUBLISHED_NETWORK: Settings = {
    "backbone.attention_dropout": 0.2,
    "backbone.scale_embeddings": True,
    "backbone.activation": "relu",
}
"""As SASRec's published code has it."""
LENGTH_200: Settings = {"max_seq_len": 200, "batch_size": 128, "train.max_epochs": 200, "train.patience": 15}
LENGTH_50: Settings = {"max_seq_len": 50, "batch_size": 256, "train.max_epochs": 100, "train.patience": 10}

DENSE = Search(
    "ml_1m",
    LENGTH_200,
    {
        "cce": {"loss": "cce"},
        "cce_neg 3000": _sampled("cce_neg", 3000, "tile"),
        "gbce 256": _sampled("gbce", 256, "none"),
        "bce 1": {"loss": "bce", "negatives.sharing": "none"},
        "bert4rec cce": {"model": "bert4rec", "loss": "cce", "backbone.mask_prob": 0.2},
    },
    (
        _width(128, 2, 0.2),
        _width(64, 1, 0.1),  # the published sizes
        _width(256, 4, 0.3),
        _width(128, 2, 0.3, **{"train.window": 100}),
        _width(256, 4, 0.5, **{"train.learning_rate": 0.0005}),
        _width(128, 1, 0.3, **{"batch_size": 64, "train.learning_rate": 0.0005}),
        _width(128, 2, 0.2, **PUBLISHED_NETWORK),
    ),
)

SPARSE_CONTENDERS: dict[str, Settings] = {
    "cce": {"loss": "cce"},
    "cce_neg 2048": _sampled("cce_neg", 2048, "tile"),
}
SPARSE_CANDIDATES = (
    _width(128, 2, 0.5),
    _width(64, 2, 0.5),
    _width(256, 4, 0.5),
    _width(64, 1, 0.2),
    _width(128, 2, 0.5, **{"batch_size": 128, "train.learning_rate": 0.0005}),
    _width(256, 4, 0.7),
    _width(128, 2, 0.5, **PUBLISHED_NETWORK),
)
SPARSE = tuple(
    Search(dataset, LENGTH_50, SPARSE_CONTENDERS, SPARSE_CANDIDATES) for dataset in ("toys", "sports", "yelp")
)
SMALL = Search(  # a thousand users: small batches, or an epoch would be a handful of steps
    "lastfm",
    {"batch_size": 64, "train.max_epochs": 150, "train.patience": 15},
    SPARSE_CONTENDERS,
    (
        _width(64, 1, 0.5, max_seq_len=50),
        _width(64, 1, 0.5, max_seq_len=200),
        _width(128, 2, 0.5, max_seq_len=50),
        _width(64, 2, 0.3, max_seq_len=50),
        _width(128, 2, 0.5, max_seq_len=200),
        _width(64, 1, 0.7, max_seq_len=200),
        _width(256, 4, 0.5, max_seq_len=200),
        _width(128, 2, 0.6, max_seq_len=500),
        _width(128, 2, 0.5, max_seq_len=200, **PUBLISHED_NETWORK),
    ),
)

SEARCHES: tuple[Search, ...] = (DENSE, *SPARSE, SMALL)

SAMPLING_POINTS: dict[str, Settings] = {
    "cce": {"loss": "cce"},
    **{f"none {n}": _sampled("cce_neg", n, "none") for n in (64, 256, 1024)},
    **{f"tile {n}": _sampled("cce_neg", n, "tile") for n in (256, 1024, 2048)},
    **{f"batch {n}": _sampled("cce_neg", n, "batch") for n in (256, 2048)},
    "tile 1024 popularity": _sampled("cce_neg", 1024, "tile", **{"negatives.sampling": "popularity"}),
    "tile 1024 popularity, no logQ": _sampled(
        "cce_neg", 1024, "tile", **{"negatives.sampling": "popularity", "negatives.logq": False}
    ),
    "batch 1024 in_batch": _sampled("cce_neg", 1024, "batch", **{"negatives.sampling": "in_batch"}),
    "batch 1024 in_batch, no logQ": _sampled(
        "cce_neg", 1024, "batch", **{"negatives.sampling": "in_batch", "negatives.logq": False}
    ),
}
TRADE_OFFS = (TradeOff("ml_1m", "cce", SAMPLING_POINTS), TradeOff("toys", "cce", SAMPLING_POINTS))


def pending(
    rows: Sequence[Row], kinds: Sequence[Kind], datasets: Sequence[str], contenders: Sequence[str] = ()
) -> list[Trial]:
    """What is left to run, the most important first.

    Args:
        rows: of earlier runs; one that failed is left to run.
        kinds: which kinds of runs.
        datasets: which data sets.
        contenders: which contenders and points of the trade-offs; none: all.
    """
    there = {
        (row["kind"], row["dataset"], json.dumps(row["settings"], sort_keys=True), row["seed"])
        for row in rows
        if row["status"] == "ok"
    }
    found: dict[tuple[object, ...], Trial] = {}
    for trial in _all(rows):
        wanted = (
            trial.kind in kinds and trial.dataset in datasets and trial.contender in (contenders or [trial.contender])
        )
        if wanted and trial.key not in there:
            found.setdefault(trial.key, trial)
    return list(found.values())


def chosen(rows: Sequence[Row], search: Search, contender: str) -> Settings | None:
    """The candidate of best validation NDCG@10; None while its search is not complete, or if all of it failed.

    Runs that failed have no score and are passed over.
    """
    wanted = [json.dumps(settings, sort_keys=True) for settings in search.settings(contender)]
    scores: dict[str, float | None] = {}
    for row in rows:
        if row["kind"] == "search" and row["dataset"] == search.dataset:
            settings = json.dumps(row["settings"], sort_keys=True)
            if scores.get(settings) is None:  # one that failed may have succeeded since
                scores[settings] = row.get("validation_ndcg_at_10")
    succeeded = {settings: score for settings in wanted if (score := scores.get(settings)) is not None}
    if any(settings not in scores for settings in wanted) or not succeeded:
        return None
    best: Settings = json.loads(max(succeeded, key=lambda settings: succeeded[settings]))
    return best


def _all(rows: Sequence[Row]) -> list[Trial]:
    """Every trial that is known by now: search and finals data set by data set, then the trade-offs."""
    trials: list[Trial] = []
    for search in SEARCHES:
        finals: list[Trial] = []
        for place in range(len(search.candidates)):
            for contender in search.contenders:
                settings = search.settings(contender)[place]
                trials.append(Trial.of("search", search.dataset, contender, settings, SEARCH_SEED))
        for contender in search.contenders:
            best = chosen(rows, search, contender)
            if best is not None:
                finals += [Trial.of("final", search.dataset, contender, best, seed) for seed in FINAL_SEEDS]
        trials += finals
    for kind, seeds in (("final", FINAL_SEEDS[:1]), ("time", (SEARCH_SEED,)), ("final", FINAL_SEEDS[1:])):
        for seed in seeds:
            for trade_off in TRADE_OFFS:
                trials += _of_trade_off(rows, trade_off, kind, seed)  # type: ignore[arg-type]  # one of Kind
    return trials


def _of_trade_off(rows: Sequence[Row], trade_off: TradeOff, kind: Kind, seed: int) -> list[Trial]:
    (search,) = (search for search in SEARCHES if search.dataset == trade_off.dataset)
    base = chosen(rows, search, trade_off.base)
    if base is None:
        return []
    return [Trial.of(kind, trade_off.dataset, name, base | point, seed) for name, point in trade_off.points.items()]
