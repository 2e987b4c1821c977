"""What the accuracy study runs, and in which order: a pure function of the rows that exist already.

There are three kinds of runs. ``search``: one seed of a candidate, measured on the validation targets only. ``final``:
three other seeds of the candidate that the search of its loss chose, measured on the test targets. ``time``: the
training steps of a setting, with nothing else running on the machine. Every loss of a data set gets the same
candidates, hence the same number of trials. This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cutrec import config
from cutrec.config_point import Config
from cutrec.nested import nest

Kind = Literal["search", "final", "time"]
Settings = dict[str, Any]
"""Flat: dotted keys of params.yaml and their values."""
Row = dict[str, Any]
"""What `pipelines.study.runs` writes about a run."""

KINDS: tuple[Kind, ...] = ("search", "final", "time")
SEARCH_SEED = 0
FINAL_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Trial:
    """One run."""

    kind: Kind
    dataset: str
    contender: str
    """The loss (and model) that this run belongs to, or the name of a point of the trade-off."""
    settings: str
    """JSON of `Settings` with sorted keys."""
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
    def row(self) -> Row:
        """The fields of its row that say what was run."""
        return asdict(self) | {"settings": json.loads(self.settings)}

    @property
    def point(self) -> Config:
        """The parameters of the run.

        Raises:
            ConfigError: settings that params.yaml would not allow.
        """
        of_log = {"dataset": self.dataset, "download.ties": "row_order"}  # published sequences are in order
        return config.from_mapping(nest({**json.loads(self.settings), **of_log, "seed": self.seed}))


@dataclass(frozen=True)
class Search:
    """The candidates of one data set, the same for every contender."""

    dataset: str
    shared: Settings
    contenders: dict[str, Settings]
    """What each contender fixes: its loss, and what its definition or its publication prescribes."""
    candidates: tuple[Settings, ...]
    """The most promising first."""

    def settings(self, contender: str) -> list[Settings]:
        """The candidates of a contender."""
        fixed = self.contenders[contender]
        return [self.shared | candidate | fixed for candidate in self.candidates]


def _width(hidden: int, heads: int, dropout: float, **more: Any) -> Settings:
    return {"backbone.hidden": hidden, "backbone.heads": heads, "backbone.dropout": dropout, **more}


def _sampled(loss: str, negatives: int, sharing: str, **more: Any) -> Settings:
    return {"loss": loss, "num_negatives": negatives, "negatives.sharing": sharing, **more}


PUBLISHED_NETWORK: Settings = {
    "backbone.attention_dropout": 0.2,
    "backbone.scale_embeddings": True,
    "backbone.activation": "relu",
}
"""The network of SASRec's published code."""
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
SMALL = Search(  # a thousand users: with larger batches an epoch would have a handful of steps
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

POPULARITY = {"negatives.sampling": "popularity"}
IN_BATCH = {"negatives.sampling": "in_batch"}
UNCORRECTED = {"negatives.logq": False}
SAMPLING_POINTS: dict[str, Settings] = {
    "cce": {"loss": "cce"},
    **{f"none {n}": _sampled("cce_neg", n, "none") for n in (64, 256, 1024)},
    **{f"tile {n}": _sampled("cce_neg", n, "tile") for n in (256, 1024, 2048)},
    **{f"batch {n}": _sampled("cce_neg", n, "batch") for n in (256, 2048)},
    "tile 1024 popularity": _sampled("cce_neg", 1024, "tile", **POPULARITY),
    "tile 1024 popularity, no logQ": _sampled("cce_neg", 1024, "tile", **POPULARITY, **UNCORRECTED),
    "batch 1024 in_batch": _sampled("cce_neg", 1024, "batch", **IN_BATCH),
    "batch 1024 in_batch, no logQ": _sampled("cce_neg", 1024, "batch", **IN_BATCH, **UNCORRECTED),
}
"""Ways to sample negatives, applied to the settings that a search chose for `BASE`."""
BASE = "cce"
TRADE_OFFS = (DENSE, SPARSE[0])


def pending(
    rows: Sequence[Row], kinds: Sequence[Kind], datasets: Sequence[str], contenders: Sequence[str] = ()
) -> list[Trial]:
    """The trials that have not succeeded yet, the most important first.

    ``contenders`` are names of contenders and of points of the trade-offs; all if empty.
    """
    succeeded = {key_of(row) for row in rows if row["status"] == "ok"}
    found: dict[tuple[object, ...], Trial] = {}
    for trial in _all(rows):
        wanted = trial.kind in kinds and trial.dataset in datasets and (not contenders or trial.contender in contenders)
        if wanted and trial.key not in succeeded:
            found.setdefault(trial.key, trial)
    return list(found.values())


def key_of(row: Row) -> tuple[object, ...]:
    """The key of the trial that a row belongs to."""
    return row["kind"], row["dataset"], json.dumps(row["settings"], sort_keys=True), row["seed"]


def runs_of(rows: Sequence[Row], kind: Kind, dataset: str, settings: Settings, *statuses: str) -> list[Row]:
    """The rows of some settings, over seeds; only those with one of the statuses, if any are given."""
    return [
        row
        for row in rows
        if (row["kind"], row["dataset"], row["settings"]) == (kind, dataset, settings)
        and (not statuses or row["status"] in statuses)
    ]


def chosen(rows: Sequence[Row], search: Search, contender: str) -> Settings | None:
    """The candidate with the best validation NDCG@10, its keys sorted; the first one of several.

    Returns:
        None if a candidate has not been run yet, or if all candidates failed: failed runs have no score.
    """
    found: list[tuple[float, Settings]] = []
    for settings in search.settings(contender):
        runs = runs_of(rows, "search", search.dataset, settings)
        if not runs:
            return None
        scores = [row["validation_ndcg_at_10"] for row in runs if row.get("validation_ndcg_at_10") is not None]
        found += [(score, settings) for score in scores[:1]]
    return dict(sorted(max(found, key=lambda pair: pair[0])[1].items())) if found else None


def trade_off(rows: Sequence[Row], search: Search) -> dict[str, Settings]:
    """The settings of each of the `SAMPLING_POINTS`; empty until the search of `BASE` is complete."""
    base = chosen(rows, search, BASE)
    return {} if base is None else {name: base | point for name, point in SAMPLING_POINTS.items()}


def winners(rows: Sequence[Row]) -> Iterator[tuple[Search, str, Settings]]:
    """Each search and contender whose search is complete, with the settings that were chosen."""
    for search in SEARCHES:
        for contender in search.contenders:
            if (best := chosen(rows, search, contender)) is not None:
                yield search, contender, best


def _all(rows: Sequence[Row]) -> list[Trial]:
    """Every trial that can be known by now: search and finals of each data set, then the trade-offs."""
    found = list(winners(rows))
    trials: list[Trial] = []
    for search in SEARCHES:
        for candidates in zip(*map(search.settings, search.contenders), strict=True):
            for contender, settings in zip(search.contenders, candidates, strict=True):
                trials.append(Trial.of("search", search.dataset, contender, settings, SEARCH_SEED))
        finals = [(contender, best) for of_search, contender, best in found if of_search is search]
        trials += [Trial.of("final", search.dataset, *final, seed) for final in finals for seed in FINAL_SEEDS]
    points = [(search.dataset, trade_off(rows, search)) for search in TRADE_OFFS]
    order: list[tuple[Kind, int]] = [("final", FINAL_SEEDS[0]), ("time", SEARCH_SEED)]
    for kind, seed in order + [("final", seed) for seed in FINAL_SEEDS[1:]]:
        trials += [Trial.of(kind, dataset, *point, seed) for dataset, named in points for point in named.items()]
    return trials
