"""How often the intervals hold the truth, and how often the permutation test rejects a null that is true.

    python packages/rec-eval/benchmarks/coverage.py --out packages/rec-eval/benchmarks/results/coverage.csv
    python packages/rec-eval/benchmarks/coverage.py --tables packages/rec-eval/METRICS.md

The first takes about 20 minutes on one core; the second writes the tables from the CSV into the document.

Single means: each of n users is hit with a probability near the nominal hit rate (drawn per trial, within a tenth of
it or of the miss rate, because the coverage of a rate at one exact probability jumps with its last digits), and a hit
has a gain: 1 (hit rate), that of NDCG@10 or MRR@10 at ranks that are uniform or skewed to the head, or a share of
several targets. Pairs: hits and ranks of two runs by a normal copula. ``same`` draws both runs from one distribution,
``equal mean`` from two with the same mean metric (uniform and skewed ranks), ``gain`` gives B half as many hits more.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rec_eval import compare
from rec_eval.metrics.comparison import MIN_DIFFERING
from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats
from rec_eval.metrics.intervals import MIN_HITS, score_bounds

LEVEL = 0.95
USERS = (30, 50, 100, 300, 1000)
HIT_RATES = (0.1, 0.2, 0.5, 0.9)
CORRELATIONS = (0.0, 0.5, 0.9)
RANKS = np.arange(1, 11)
GAINS = {"hitrate": np.ones(10), "ndcg": 1 / np.log2(RANKS + 1), "mrr": 1 / RANKS}
SHAPES = {"uniform": np.full(10, 0.1), "skewed": RANKS**-1.5 / (RANKS**-1.5).sum()}
SHARES = {"uniform": np.full(5, 0.2), "skewed": np.array([0.6, 0.2, 0.1, 0.06, 0.04])}
"""Of users with 1 to 5 of 5 targets in the list, among those with any."""
COLUMNS = ("kind", "metric", "ranks", "case", "hit_rate", "correlation", "users", "trials")
CSV = Path(__file__).parent / "results" / "coverage.csv"
MARKS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")
RESULTS = ("coverage", "printed", "coverage_if_printed", "rejected")


def single_means(generator: np.random.Generator, trials: int) -> Iterator[dict[str, object]]:
    """Coverage of the interval of a mean for each case."""
    for metric in ("hitrate", "ndcg", "mrr", "recall"):
        for ranks in ("uniform", "skewed")[: 1 if metric == "hitrate" else 2]:
            gains = np.arange(1, 6) / 5 if metric == "recall" else GAINS[metric]
            shape = SHARES[ranks] if metric == "recall" else SHAPES[ranks]
            for rate in HIT_RATES:
                for users in USERS:
                    width = min(rate, 1 - rate) / 10
                    rates = rate + width * generator.uniform(-1, 1, (trials, 1))
                    counts = generator.multinomial(users, np.hstack([1 - rates, rates * shape]))
                    values = np.append(0.0, gains)
                    low, high = score_bounds(values[None], counts.astype(np.float64), (np.zeros(1), np.ones(1)), LEVEL)
                    truth = rates[:, 0] * (shape @ gains)
                    held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
                    printed = users - counts[:, 0] >= MIN_HITS
                    yield {
                        "kind": "mean",
                        "metric": metric,
                        "ranks": "" if metric == "hitrate" else ranks,
                        "hit_rate": rate,
                        "users": users,
                        "trials": trials,
                        "coverage": held.mean(),
                        "printed": printed.mean(),
                        "coverage_if_printed": held[printed].mean(),
                    }


def pairs(generator: np.random.Generator, trials: int, users: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """Coverage of the interval of a difference and size or power of the test for each case."""
    for metric in GAINS:
        for case in ("same", "equal mean", "gain"):
            for rate in HIT_RATES:
                first, second = pair_shapes(metric, case, rate)
                if case == "equal mean" and metric == "hitrate":
                    continue  # it is the same distribution
                for correlation in CORRELATIONS:
                    for number in users:
                        found = [
                            one_pair(generator, GAINS[metric], first, second, correlation, number)
                            for _ in range(trials)
                        ]
                        held, printed, rejected = np.array(found).T
                        yield {
                            "kind": "pair",
                            "metric": metric,
                            "case": case,
                            "hit_rate": rate,
                            "correlation": correlation,
                            "users": number,
                            "trials": trials,
                            "printed": printed.mean(),
                            "rejected": rejected.mean(),
                            "coverage_if_printed": held[printed > 0].mean() if printed.any() else "",
                        }


def pair_shapes(metric: str, case: str, rate: float) -> tuple[Floats, Floats]:
    """Probabilities of a hit at each rank in both runs."""
    first = rate * SHAPES["uniform"]
    if case == "same":
        return first, first
    if case == "gain":
        return first, first + min(rate, 1 - rate) / 2 * SHAPES["uniform"]
    skewed = SHAPES["skewed"]
    return first, skewed * (first @ GAINS[metric]) / (skewed @ GAINS[metric])


def one_pair(
    generator: np.random.Generator, gains: Floats, first: Floats, second: Floats, correlation: float, users: int
) -> tuple[bool, bool, bool]:
    """Of a simulated pair: whether the interval holds the truth, whether there is one, whether the test rejects."""
    common = generator.standard_normal(users)
    runs = []
    for shape in (first, second):
        own = generator.standard_normal(users)
        latent = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        edges = [NormalDist().inv_cdf(min(share, 1 - 1e-12)) for share in np.cumsum(shape)]
        values = np.append(gains, 0.0)[np.searchsorted(edges, latent)]
        runs.append(Evaluation((10,), {"m@10": values}, {}, users, 0, 0))
    found = compare(*runs, "m@10", level=LEVEL, resamples=200, seed=int(generator.integers(1 << 30)))
    truth = (second - first) @ gains
    held = found.low - 1e-12 <= truth <= found.high + 1e-12
    return held, found.differing >= MIN_DIFFERING, found.p_value < 1 - LEVEL


def write_tables(document: Path) -> None:
    """Replace the tables between the two marks of the document."""
    with CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = [row for row in rows if row["kind"] == "mean"]
    lines = ["| metric | ranks of hits | hit rate |" + "".join(f" n = {n} |" for n in USERS), "|---" * 8 + "|"]
    for metric, ranks, rate in dict.fromkeys((row["metric"], row["ranks"], row["hit_rate"]) for row in means):
        chosen = [row for row in means if (row["metric"], row["ranks"], row["hit_rate"]) == (metric, ranks, rate)]
        lines.append(f"| {metric} | {ranks} | {rate} |" + "".join(f" {percent(row['coverage'])} |" for row in chosen))
    lines += ["", "| metric | case | hit rate | users |" + "".join(f" correlation {c} |" for c in CORRELATIONS)]
    lines.append("|---" * 7 + "|")
    pair_rows = [row for row in rows if row["kind"] == "pair"]
    names = ("metric", "case", "hit_rate", "users")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in pair_rows):
        chosen = [row for row in pair_rows if tuple(row[name] for name in names) == key]
        cells = [
            f" {percent(row['coverage_if_printed'])} ({percent(row['printed'], 0)}), {percent(row['rejected'])} |"
            for row in chosen
        ]
        lines.append("| " + " | ".join(key) + " |" + "".join(cells))
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    document.write_text("\n".join([before + MARKS[0], "", *lines, "", MARKS[1] + after]), encoding="utf-8")


def percent(share: str, digits: int = 1) -> str:
    """A share of the CSV as a number of percent; a dash for none."""
    return f"{100 * float(share):.{digits}f}" if share else "-"


def main() -> None:
    """Simulate into a CSV, or write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=30_000, help="of each mean; pairs take a tenth")
    parser.add_argument("--tables", type=Path, help="write the tables of the CSV beside this script into a document")
    options = parser.parse_args()
    if options.tables:
        write_tables(options.tables)
        return
    generator = np.random.default_rng(0)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *RESULTS), restval="", lineterminator="\n")
        writer.writeheader()
        for rows in (single_means(generator, options.trials), pairs(generator, options.trials // 10, (30, 100, 1000))):
            for row in rows:
                shown = {k: round(float(v), 4) if isinstance(v, np.floating) else v for k, v in row.items()}
                writer.writerow(shown)
                file.flush()


if __name__ == "__main__":
    main()
