"""Compare two runs user by user: difference, interval and p-value of each metric, and one sentence to quote.

A and B are each a DVC experiment, branch, tag or revision, whose outputs are read from DVC's cache; ``workspace``, the
outputs as they are in ``data/``; or a folder that holds ``data/evaluate/per_user.parquet`` or ``per_user.parquet``.
Differences are B - A, as in ``dvc metrics diff A B``: positive means that B is better.

Examples:
    uv run cutrec compare exact sampled
    uv run cutrec compare exact workspace --metric recall@20 --out compare.csv
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, local_path, positive_int, share
from cutrec.console import prepare_output_file


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", type=_run_name, help="a DVC experiment or revision, workspace, or a folder")
    parser.add_argument("b", metavar="B", type=_run_name, help="the same, for the second run")
    parser.add_argument("--metric", default="ndcg@10", help="the metric of the sentence (default: ndcg@10)")
    parser.add_argument("--k", type=positive_int, default=10, help="the k of the table (default: 10)")
    parser.add_argument("--level", type=share, default=0.95, help="of the intervals (default: 0.95)")
    text = "random signs of each user in the permutation test (default: 10000)"
    parser.add_argument("--resamples", type=positive_int, default=10_000, help=text)
    parser.add_argument("--out", type=local_file, help="write the table there as CSV too")


def _run_name(text: str) -> str:
    """A folder as commands see it, which run in the root of the checkout; other names stay."""
    return local_path(text) if Path(text).is_dir() else text


def run(options: Namespace) -> None:
    """Read both runs, compare them and print the result."""
    if options.out is not None:
        prepare_output_file("--out", options.out)

    from cutrec.reporting.compare import compare_runs, read_run, table
    from rec_eval import write_rows

    run_a, run_b = read_run(options.a), read_run(options.b)
    settings = {name: options[name] for name in ("metric", "k", "level", "resamples")}
    rows = compare_runs(run_a, run_b, names=(options.a, options.b), **settings)
    for name, found in ((options.a, run_a), (options.b, run_b)):
        if found.targets is None:
            text = (
                "is of an earlier version, which did not record the targets: whether both runs had the same is unknown"
            )
            print(f"note: {name} {text}", file=sys.stderr)
    print(table(rows, run_a, run_b, options.k))
    print()
    print(next(row for row in rows if row.metric == options.metric).sentence)
    if options.out is not None:
        write_rows(rows, options.out)
