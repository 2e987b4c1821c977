"""Compare two runs user by user: difference, interval and p-value of each metric, and one sentence to quote.

A and B are each a DVC experiment, branch, tag or revision, whose outputs are read from DVC's cache; ``workspace``, the
outputs as they are in ``data/``; or a folder that holds ``data/evaluate/per_user.parquet`` or ``per_user.parquet``.
Differences are B - A, as in ``dvc metrics diff A B``: positive means that B is better.

Each may be several runs of other seeds, with commas between their names. The interval is then about other users and
other seeds, and the table says how much of the uncertainty is from which. Only the users count whom all runs tested on
the same target, because the seed also draws validation users and orders interactions with equal times.

Examples:
    uv run cutrec compare exact sampled
    uv run cutrec compare exact workspace --metric recall@20 --out compare.csv
    uv run cutrec compare exact-1,exact-2,exact-3 sampled-1,sampled-2,sampled-3
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, local_path, positive_int, share
from cutrec.console import prepare_output_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rec_eval import Comparison, SeedComparison


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", type=_run_names, help="a DVC experiment or revision, workspace, or a folder")
    parser.add_argument("b", metavar="B", type=_run_names, help="the same, for the second run")
    parser.add_argument("--metric", default="ndcg@10", help="the metric of the sentence (default: ndcg@10)")
    parser.add_argument("--k", type=positive_int, default=10, help="the k of the table (default: 10)")
    parser.add_argument("--level", type=share, default=0.95, help="of the intervals (default: 0.95)")
    text = "random signs of each user in the permutation test (default: 10000)"
    parser.add_argument("--resamples", type=positive_int, default=10_000, help=text)
    parser.add_argument("--out", type=local_file, help="write the table there as CSV too")


def _run_names(text: str | list[str]) -> list[str]:
    """The names of one or several runs; folders as commands see them, which run in the root of the checkout."""
    if isinstance(text, list):  # checked a second time
        return text
    names = [text] if Path(text).is_dir() else [name for name in text.split(",") if name]
    return [local_path(name) if Path(name).is_dir() else name for name in names or [text]]


def run(options: Namespace) -> None:
    """Read both runs, compare them and print the result."""
    if options.out is not None:
        prepare_output_file("--out", options.out)

    from cutrec.reporting.compare import compare_runs, over_seeds, read_run, table
    from rec_eval import write_rows

    runs_a, runs_b = ([read_run(name) for name in names] for names in (options.a, options.b))
    settings = {name: options[name] for name in ("metric", "k", "level")}
    if len(runs_a) == len(runs_b) == 1:
        names = (options.a[0], options.b[0])
        compared_a, compared_b = runs_a, runs_b
        rows: Sequence[Comparison | SeedComparison] = compare_runs(
            runs_a[0], runs_b[0], names=names, resamples=options.resamples, **settings
        )
    else:
        rows, compared_a, compared_b = over_seeds(runs_a, runs_b, names=(options.a, options.b), **settings)
    for name, found in zip([*options.a, *options.b], [*runs_a, *runs_b], strict=True):
        if found.targets is None:
            text = (
                "is of an earlier version, which did not record the targets: whether both runs had the same is unknown"
            )
            print(f"note: {name} {text}", file=sys.stderr)
    print(table(rows, compared_a, compared_b, options.k))
    print()
    print(next(row for row in rows if row.metric == options.metric).sentence)
    if options.out is not None:
        write_rows(rows, options.out)
