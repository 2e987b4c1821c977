"""A model of peak memory in the paper's own code, for CE and CE-, beside its authors' log of 997 runs.

Their SASRec (D 256, fp16 mixed) pads to the full length. With BL padded places, M real ones, V items, N negatives:

    CE    c V D + BL (10 V + b D)                    fp16 logits, their fp32 copy and its log-softmax: 2 + 4 + 4 bytes
    CE-   c V D + BL (b D + a L) + g M N D           gathered rows: fp32, fp16, a gradient of each: 2 x (4 + 2) bytes
    both  at least f V D                             Adam's step: parameters, gradients, moments, tables of its own

The catalogue that the runs had is not printed. For four data sets the slope of CE over BL gives it (the runs lie on a
line to a part in a thousand); for two it is what the floor of their smallest runs gives. M is the largest batch that a
twin's lengths make likely: where the real log has longer tails than its twin (Beauty), small batches of long histories
are predicted too low. `fit` finds all constants from the log; those below are its outcome, and a test fits them again.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutrec import config as params
from pipelines.planner.memory import GIB
from pipelines.planner.sizes import sizes_of

LOG = Path(__file__).parents[1] / "reference" / "authors_runs.csv"
D = 256
LOGIT_BYTES = 10.0
CATALOGUES = {
    "beauty": 166_767,
    "gowalla": 305_088,
    "movielens_20m": 14_950,
    "zvuk": 889_540,
    "30music": 864_131,
    "megamarket": 3_135_656,
}
"""Items of the training catalogue that the log's memory fits. Megamarket's is near its 3.28 M items before filters, not
the published 1.66 M after them."""


@dataclass(frozen=True)
class Constants:
    """Bytes of the parts."""

    table: float
    """c: an element of the item table: parameter, gradients, Adam's moments, copies."""
    ce_place: float
    """b of CE: an element of a padded place."""
    ce_table: float
    """c of CE."""
    place: float
    """b of CE-."""
    gathered: float
    """g: an element of a gathered row."""
    attended: float
    """a: a pair of places of one sequence."""
    floor: float
    """f: an element of the item table during Adam's step."""


FITTED = Constants(table=16.52, ce_place=30.0, ce_table=15.89, place=72.39, gathered=12.87, attended=1.646, floor=20.98)


@dataclass(frozen=True)
class Run:
    """One run of the log."""

    dataset: str
    loss: str
    batch_size: int
    max_seq_len: int
    num_negatives: int | None
    peak_gib: float
    epoch_seconds: float
    ndcg_at_10: float

    @property
    def padded(self) -> int:
        """BL."""
        return self.batch_size * self.max_seq_len


def read_log(path: Path = LOG) -> list[Run]:
    """The authors' runs."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Run(
                row["dataset"],
                row["loss"],
                int(row["batch_size"]),
                int(row["max_seq_len"]),
                int(row["num_negatives"]) if row["num_negatives"] else None,
                float(row["peak_gib"]),
                float(row["epoch_seconds"]),
                float(row["ndcg_at_10"]),
            )
            for row in csv.DictReader(file)
        ]


def predict(run: Run, constants: Constants = FITTED, items: int | None = None) -> float:
    """Peak GiB of a run.

    Args:
        run: what was run.
        constants: bytes of the parts.
        items: V; None: what the log's memory fits.
    """
    catalogue = CATALOGUES[run.dataset] if items is None else items
    if run.num_negatives is None:
        place = LOGIT_BYTES * catalogue + constants.ce_place * D
        peak = constants.ce_table * catalogue * D + run.padded * place
    else:
        parts = (constants.table, constants.place, constants.gathered, constants.attended)
        peak = float(np.dot(_columns(run, catalogue), parts))
    return max(peak, constants.floor * catalogue * D) / GIB


def errors(runs: Sequence[Run]) -> list[float]:
    """Relative errors of the prediction, above 0 where it is too high."""
    return [predict(run) / run.peak_gib - 1 for run in runs]


def fit(runs: Sequence[Run]) -> tuple[Constants, dict[str, int]]:
    """Constants and catalogues from the log: medians and least squares of relative errors, outliers left out.

    Args:
        runs: of the log.
    """
    full = [run for run in runs if run.num_negatives is None]
    sampled = [run for run in runs if run.num_negatives is not None]
    datasets = sorted({run.dataset for run in runs})
    place = 30.0
    slopes = {name: _line([run for run in full if run.dataset == name]) for name in datasets}
    catalogues = {name: round((line[0] - place * D) / LOGIT_BYTES) for name, line in slopes.items() if line}
    ce_table = float(np.median([line[1] / (catalogues[name] * D) for name, line in slopes.items() if line]))

    # Where CE gives no catalogue, the smallest run does: it is all floor.
    smallest = {name: min(run.peak_gib for run in sampled if run.dataset == name) * GIB / D for name in datasets}
    big = [name for name in catalogues if smallest[name] * D > GIB / 2]  # where Adam's step, not the batch, is the peak
    floor = float(np.median([smallest[name] / catalogues[name] for name in big]))
    catalogues |= {name: round(smallest[name] / floor) for name in datasets if name not in catalogues}

    kept = sampled
    constants = Constants(0, place, ce_table, 0, 0, 0, floor)
    for _ in range(4):  # runs that the floor decides, or that are far off, say nothing about the rest
        rows = [_columns(run, catalogues[run.dataset]) / (run.peak_gib * GIB) for run in kept]
        found, *_ = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)
        table, padded, gathered, attended = (float(value) for value in found)
        constants = Constants(table, place, ce_table, padded, gathered, attended, floor)
        kept = [run for run in sampled if _explained(run, constants, catalogues[run.dataset])]
    return constants, catalogues


def _explained(run: Run, constants: Constants, items: int) -> bool:
    peak = predict(run, constants, items)
    return abs(peak / run.peak_gib - 1) < 0.25 and peak * GIB > 1.02 * constants.floor * items * D


def _line(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Bytes a padded place and bytes at none, or None with fewer than three runs; one far-off run is left out."""
    if len(runs) < 3:
        return None
    padded = np.array([run.padded for run in runs], dtype=np.float64)
    peak = np.array([run.peak_gib for run in runs]) * GIB
    kept = np.ones(len(runs), dtype=bool)
    for _ in range(2):
        slope, start = np.polyfit(padded[kept], peak[kept], 1, w=1 / peak[kept])
        kept = np.abs(slope * padded + start - peak) < 0.05 * peak
    return float(slope), float(start)


def _columns(run: Run, catalogue: int) -> npt.NDArray[np.float64]:
    """What c, b, g and a of CE- are multiplied by."""
    tokens = _most_tokens(run.dataset, run.batch_size, run.max_seq_len)
    assert run.num_negatives is not None
    return np.array([catalogue * D, run.padded * D, tokens * run.num_negatives * D, run.padded * run.max_seq_len])


@lru_cache(maxsize=4096)
def _most_tokens(dataset: str, batch_size: int, max_seq_len: int) -> float:
    point = params.from_mapping(
        {"dataset": f"twin:{dataset}", "batch_size": batch_size, "max_seq_len": max_seq_len, "model": "sasrec"}
    )
    return sizes_of(point).most_tokens
