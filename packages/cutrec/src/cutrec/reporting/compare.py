"""Compare two runs user by user: difference, interval and p-value of every metric, and one sentence to quote.

    python -m cutrec.reporting.compare A B [--metric ndcg@10] [--k 10] [--level 0.95]

A and B are each a DVC experiment, branch, tag or revision, whose outputs come from DVC's cache; ``workspace``, the
outputs as they lie in ``data/``; or a folder that holds ``data/evaluate/per_user.parquet`` or ``per_user.parquet``.
A difference is B - A, as in ``dvc metrics diff A B``: above 0 where B has more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutrec.reporting import text_table
from cutrec.workflow import outputs as stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from rec_eval import Comparison, Evaluation

PER_USER = stage.DATA / "evaluate" / "per_user.parquet"
WORKSPACE = "workspace"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read both runs, compare, print."""
    options = parse(arguments)
    if options.out is not None:
        stage.room_for_file("--out", options.out)

    from rec_eval import write_rows

    run_a, run_b = read_run(options.a), read_run(options.b)
    rows = compare_runs(run_a, run_b, options)
    print(table(rows, run_a, run_b, options.k))
    print()
    print(next(row for row in rows if row.metric == options.metric).sentence)
    if options.out is not None:
        write_rows(rows, options.out)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cutrec.reporting.compare",
        description=str(__doc__).replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="a DVC experiment or revision, workspace, or a folder")
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument("--metric", default="ndcg@10", help="of the sentence (default: ndcg@10)")
    parser.add_argument("--k", type=int, default=10, help="of the table (default: 10)")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    parser.add_argument("--out", type=Path, help="write the table there too, as CSV")
    return parser.parse_args(arguments)


def read_run(name: str) -> Evaluation:
    """The values per user of a run.

    Args:
        name: a folder, or what DVC knows by this name.

    Raises:
        StageError: there is no such run, its outputs are not at hand, or it has no accuracy (a twin).
    """
    from rec_eval import read_evaluation

    folder = Path() if name == WORKSPACE else Path(name)
    found = [path for path in (folder / PER_USER, folder / PER_USER.name) if path.is_file()]
    if found:
        source: Path | IO[bytes] = found[0]
    elif folder.is_dir():
        raise stage.StageError(
            f"{name}: found no {PER_USER} in it" if name != WORKSPACE else f"{PER_USER}: no such file, run dvc repro"
        )
    else:
        source = _open_revision(name)
    try:
        return read_evaluation(source)
    except ValueError as error:
        raise stage.StageError(
            f"{name}: found users without values: a twin, which has no accuracy to compare, or another file"
        ) from error


def _open_revision(name: str) -> IO[bytes]:
    """The parquet of a DVC experiment or git revision, read whole from DVC's cache."""
    import io

    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError, OutputNotFoundError, PathMissingError
    from dvc.scm import SCMError

    try:
        return io.BytesIO(dvc.api.read(str(PER_USER), rev=name, mode="rb"))
    except SCMError as error:
        raise stage.StageError(
            f"{name}: found no folder, experiment or revision of this name; `dvc exp show` lists the experiments"
        ) from error
    except (FileMissingError, OutputNotFoundError, PathMissingError) as error:
        raise stage.StageError(
            f"{name}: found no {PER_USER} of it in DVC's cache: nothing was run in this revision, or its outputs were "
            f"removed; `dvc fetch` brings them from a remote, `dvc exp run` makes them"
        ) from error
    except (DvcException, OSError) as error:
        raise stage.StageError(f"{name}: its {PER_USER} cannot be read: {error}") from error


def compare_runs(run_a: Evaluation, run_b: Evaluation, options: argparse.Namespace) -> list[Comparison]:
    """Compare every metric at the table's k, and the metric of the sentence.

    Raises:
        StageError: the runs were not tested on the same users, or lack the metric or the k.
    """
    from rec_eval import compare

    same = run_a.num_users == run_b.num_users and (
        run_a.user_ids is None or run_b.user_ids is None or bool((run_a.user_ids == run_b.user_ids).all())
    )
    if not same:
        raise stage.StageError(
            f"{options.a} and {options.b}: found other test users ({run_a.num_users:,} and {run_b.num_users:,}), "
            "allowed: two runs over one data set and one split"
        )
    shared = [name for name in run_a.per_user if name in run_b.per_user]
    ks = [k for k in run_a.ks if k in run_b.ks]
    if options.k not in ks:
        raise stage.StageError(f"--k: found {options.k}, allowed: {', '.join(map(str, ks)) or 'none, no k is in both'}")
    if options.metric not in shared:
        metrics = ", ".join(dict.fromkeys(name.split("@")[0] for name in shared))
        raise stage.StageError(
            f"--metric: found {options.metric!r}, allowed: METRIC@K with a metric of {metrics} and a k of "
            f"{', '.join(map(str, ks))}"
        )
    chosen = [name for name in shared if name.endswith(f"@{options.k}")]
    return [
        compare(
            run_a,
            run_b,
            metric,
            name_a=options.a,
            name_b=options.b,
            level=options.level,
            resamples=options.resamples,
        )
        for metric in dict.fromkeys([*chosen, options.metric])
    ]


def table(rows: list[Comparison], run_a: Evaluation, run_b: Evaluation, k: int) -> str:
    """The comparisons as a markdown table; Coverage, which belongs to all lists together, without interval."""
    first = rows[0]
    header = ("metric", first.name_a, first.name_b, "difference", f"{first.level:.0%} interval", "p")
    lines = []
    for row in rows:
        interval = f"{row.low:+.4f} to {row.high:+.4f}"
        numbers = (f"{row.mean_a:.4f}", f"{row.mean_b:.4f}", f"{row.difference:+.4f}", interval, f"{row.p_value:.2g}")
        lines.append((row.metric, *numbers))
    coverage = f"coverage@{k}"
    if coverage in run_a.catalogue and coverage in run_b.catalogue:
        a, b = run_a.catalogue[coverage], run_b.catalogue[coverage]
        lines.append((coverage, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}", "", ""))
    return text_table.render(header, lines)


if __name__ == "__main__":
    stage.run(main)
