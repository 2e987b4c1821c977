"""How often the intervals hold the truth, and how often the permutation test rejects a null that is true.

    python packages/rec-eval/benchmarks/coverage.py --out packages/rec-eval/benchmarks/results/coverage.csv
    python packages/rec-eval/benchmarks/coverage.py --tables packages/rec-eval/METRICS.md

The first takes about half an hour on one core; the second writes the tables from the CSV into the document.

Single means: each of n users is hit with the probability of the hit rate, and a hit has a gain: 1 (hit rate), that of
NDCG@k or MRR@k at ranks of some distribution, or a share of several targets. The settings of the intervals were chosen
with other seeds on some of these cases, and on none of those at random. Pairs: hits and ranks of two runs by a normal
copula. ``same`` draws both runs from one distribution, ``equal mean`` from two with the same mean metric (uniform and
skewed ranks), ``gain`` gives B half as many hits more. Seeds: two equal settings, several runs of each; the seed of a
run moves the hit rate of all users (on the scale of the normal copula, where users have the standard deviation 1).
"""

import argparse
import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rec_eval import compare, compare_seeds
from rec_eval.metrics.comparison import MIN_DIFFERING
from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats
from rec_eval.metrics.intervals import MIN_HITS, score_bounds

LEVEL = 0.95
USERS = (30, 50, 100, 300, 1000)
PAIR_USERS = (30, 50, 100, 300)
HIT_RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
CORRELATIONS = (0.0, 0.7)
SEEDS = (2, 3, 5)
SEED_DEVIATIONS = (0.0, 0.05, 0.15, 0.3)
RANKS = np.arange(1, 11)


def gains_of(metric: str, k: int) -> Floats:
    """The value of a user whose hit is at each rank."""
    ranks = np.arange(1, k + 1)
    values: Floats = {"hitrate": np.ones(k), "ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}[metric]
    return values


def shapes_of(k: int) -> dict[str, Floats]:
    """Distributions of the rank of a hit."""
    ranks = np.arange(1, k + 1.0)
    shapes = {
        "uniform": np.ones(k),
        "skewed": ranks**-1.5,
        "zipf": 1 / ranks,
        "geometric": 0.7**ranks,
        "late": ranks,
        "first or any": np.where(ranks == 1, 0.5, 0.5 / (k - 1)),
        "first or last": np.where((ranks == 1) | (ranks == k), 0.5, 0.0),
    }
    return {name: shape / shape.sum() for name, shape in shapes.items()}


GAINS = {metric: gains_of(metric, 10) for metric in ("hitrate", "ndcg", "mrr")}
SHAPES = shapes_of(10)
SHARES = {"uniform": np.full(5, 0.2), "skewed": np.array([0.6, 0.2, 0.1, 0.06, 0.04])}
"""Of users with 1 to 5 of 5 targets in the list, among those with any."""
COLUMNS = ("kind", "metric", "k", "ranks", "case", "hit_rate", "correlation", "users", "trials")
CSV = Path(__file__).parent / "results" / "coverage.csv"
MARKS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")
RESULTS = ("coverage", "printed", "coverage_if_printed", "rejected")


def single_means(generator: np.random.Generator, trials: int) -> Iterator[dict[str, object]]:
    """Coverage of the interval of a mean for each case of the first table."""
    for metric in ("hitrate", "ndcg", "mrr", "recall"):
        for ranks in ("uniform", "skewed")[: 1 if metric == "hitrate" else 2]:
            gains = np.arange(1, 6) / 5 if metric == "recall" else GAINS[metric]
            shape = SHARES[ranks] if metric == "recall" else SHAPES[ranks]
            names = {"kind": "mean", "metric": metric, "ranks": "" if metric == "hitrate" else ranks, "k": 10}
            for rate in HIT_RATES:
                for users in USERS:
                    yield names | one_mean(generator, gains, shape, rate, users, trials)


def other_means(generator: np.random.Generator, trials: int) -> Iterator[dict[str, object]]:
    """The same for other k and other distributions of ranks."""
    for metric in ("ndcg", "mrr"):
        for k in (5, 20, 100):
            for ranks, shape in shapes_of(k).items():
                names = {"kind": "other", "metric": metric, "ranks": ranks, "k": k}
                for rate in (0.1, 0.25, 0.6, 0.95):
                    for users in (30, 40, 75, 200):
                        yield names | one_mean(generator, gains_of(metric, k), shape, rate, users, trials)


def random_means(generator: np.random.Generator, trials: int, cases: int = 300) -> Iterator[dict[str, object]]:
    """The same for cases at random, none of which had a part in the choice of the method."""
    for _ in range(cases):
        metric, k = generator.choice(["hitrate", "ndcg", "mrr"]), int(generator.integers(2, 60))
        shape = generator.dirichlet(np.full(k, 0.5)) * np.arange(1, k + 1) ** -generator.uniform(0, 1.5)
        rate, users = generator.uniform(0.1, 0.95), int(np.exp(generator.uniform(np.log(30), np.log(500))))
        found = one_mean(generator, gains_of(metric, k), shape / shape.sum(), rate, users, trials)
        yield {"kind": "random", "metric": metric, "k": k, "ranks": "random"} | found


def one_mean(
    generator: np.random.Generator, gains: Floats, shape: Floats, rate: float, users: int, trials: int
) -> dict[str, object]:
    """Coverage of one case."""
    values, place = np.unique(np.append(0.0, gains), return_inverse=True)
    shares = np.bincount(place, np.append(1 - rate, rate * shape))
    counts = generator.multinomial(users, shares, size=trials).astype(np.float64)
    shift = generator.uniform(-0.5, 0.5, trials) * (counts[:, 0] > 0)
    low, high = score_bounds(values[None], counts, (0.0, 1.0), LEVEL, shift)
    truth = float(shares @ values)
    held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    printed = users - counts[:, 0] >= MIN_HITS
    return {
        "hit_rate": rate,
        "users": users,
        "trials": trials,
        "coverage": held.mean(),
        "printed": printed.mean(),
        "coverage_if_printed": held[printed].mean(),
    }


def seeds(generator: np.random.Generator, trials: int) -> Iterator[dict[str, object]]:
    """Coverage of the interval over users and seeds for two equal settings."""
    edges = edges_of(0.2 * SHAPES["uniform"])
    for number in SEEDS:
        for deviation in SEED_DEVIATIONS:
            for users in (100, 1000):
                held = []
                for _ in range(trials):
                    common = generator.standard_normal(users)
                    own = generator.standard_normal((2 * number, users))
                    latent = np.sqrt(0.7) * common + np.sqrt(0.3) * own
                    latent += deviation * generator.standard_normal((2 * number, 1))
                    values = np.append(GAINS["ndcg"], 0.0)[np.searchsorted(edges, latent)]
                    runs = [Evaluation((10,), {"m@10": row}, {}, users, 0, 0) for row in values]
                    found = compare_seeds(runs[:number], runs[number:], "m@10", level=LEVEL)
                    held.append(found.low <= 0 <= found.high)
                yield {
                    "kind": "seeds",
                    "metric": "ndcg",
                    "case": number,
                    "hit_rate": 0.2,
                    "correlation": deviation,
                    "users": users,
                    "trials": trials,
                    "coverage": np.mean(held),
                }


def edges_of(shape: Floats) -> list[float]:
    """The normal quantiles between ranks of these probabilities, and a miss."""
    return [NormalDist().inv_cdf(min(share, 1 - 1e-12)) for share in np.cumsum(shape)]


def pairs(generator: np.random.Generator, trials: int, users: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """Coverage of the interval of a difference and size or power of the test for each case."""
    for metric in GAINS:
        for case in ("same", "equal mean", "gain"):
            for rate in HIT_RATES[2:]:
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
        values = np.append(gains, 0.0)[np.searchsorted(edges_of(shape), latent)]
        runs.append(Evaluation((10,), {"m@10": values}, {}, users, 0, 0))
    found = compare(*runs, "m@10", level=LEVEL, resamples=200, seed=int(generator.integers(1 << 30)))
    truth = (second - first) @ gains
    held = found.low - 1e-12 <= truth <= found.high + 1e-12
    return held, found.differing >= MIN_DIFFERING, found.p_value < 1 - LEVEL


def write_tables(document: Path) -> None:
    """Replace the tables between the two marks of the document."""
    with CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_users = table(
        [row for row in rows if row["kind"] == "mean"],
        ("metric", "ranks", "hit_rate"),
        lambda row: percent(row["coverage"]) if row["printed"] == "1.0" else both(row),
    )
    lines = [*by_users, "", *other_table([row for row in rows if row["kind"] == "other"]), ""]
    lines += table(
        [row for row in rows if row["kind"] == "pair"],
        ("metric", "case", "hit_rate", "correlation"),
        lambda row: f"{percent(row['coverage_if_printed'])} ({percent(row['printed'], 0)}), {percent(row['rejected'])}",
    )
    found = [dict(row, seeds=row["case"], deviation=row["correlation"]) for row in rows if row["kind"] == "seeds"]
    lines += ["", *table(found, ("seeds", "deviation"), lambda row: percent(row["coverage"]))]
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    document.write_text("\n".join([before + MARKS[0], "", *lines, "", MARKS[1] + after]), encoding="utf-8")


def table(rows: list[dict[str, str]], names: tuple[str, ...], cell: Callable[[dict[str, str]], str]) -> list[str]:
    """A markdown table: a row for each value of the names, a column for each number of users."""
    users = list(dict.fromkeys(row["users"] for row in rows))
    heads = [*(name.replace("_", " ") for name in names), *(f"n = {number}" for number in users)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        chosen = [cell(row) for row in rows if tuple(row[name] for name in names) == key]
        lines.append("| " + " | ".join([*key, *chosen]) + " |")
    return lines


def other_table(rows: list[dict[str, str]]) -> list[str]:
    """The lowest and the highest coverage over hit rates and numbers of users."""
    lines = ["| metric | ranks of hits | k = 5 | k = 20 | k = 100 |", "|---" * 5 + "|"]
    for metric, ranks in dict.fromkeys((row["metric"], row["ranks"]) for row in rows):
        cells = []
        for k in ("5", "20", "100"):
            own = [
                float(r["coverage_if_printed"]) for r in rows if (r["metric"], r["ranks"], r["k"]) == (metric, ranks, k)
            ]
            cells.append(f"{100 * min(own):.1f} to {100 * max(own):.1f}")
        lines.append("| " + " | ".join([metric, ranks, *cells]) + " |")
    return lines


def both(row: dict[str, str]) -> str:
    """The coverage of all intervals, and of those that are shown, with their share."""
    return f"{percent(row['coverage'])}; {percent(row['coverage_if_printed'])} ({percent(row['printed'], 0)})"


def percent(share: str, digits: int = 1) -> str:
    """A share of the CSV as a number of percent; a dash for none."""
    return f"{100 * float(share):.{digits}f}" if share else "-"


def main() -> None:
    """Simulate into a CSV, or write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=20_000, help="of each mean; pairs take a tenth")
    parser.add_argument("--tables", type=Path, help="write the tables of the CSV beside this script into a document")
    options = parser.parse_args()
    if options.tables:
        write_tables(options.tables)
        return
    generator = np.random.default_rng(2024)
    found = itertools.chain(
        single_means(generator, options.trials),
        other_means(generator, options.trials // 4),
        random_means(np.random.default_rng(7), options.trials // 2),
        seeds(generator, options.trials // 20),
        pairs(generator, options.trials // 10, PAIR_USERS),
    )
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *RESULTS), restval="", lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({k: round(float(v), 4) if isinstance(v, np.floating) else v for k, v in row.items()})
            file.flush()


if __name__ == "__main__":
    main()
