"""Compare two runs user by user. Differences are second minus first."""

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from cutrec.checksums import missing
from cutrec.environment import checkout_prefix
from cutrec.errors import StageError
from cutrec.paths import PER_USER
from cutrec.reporting.text_table import render
from rec_eval import Comparison, DamagedError, Evaluation, compare, read_evaluation

WORKSPACE = "workspace"


def read_run(name: str) -> Evaluation:
    """Read the metrics per user of a run.

    Args:
        name: ``workspace``, a folder, or a DVC experiment, branch, tag or revision.

    Raises:
        StageError: there is no such run, its outputs are not available, or it has no accuracy (a synthetic log).
    """
    folder = Path() if name == WORKSPACE else Path(name)
    found = [path for path in (folder / PER_USER, folder / PER_USER.name) if path.is_file()]
    if found:
        source: Path | IO[bytes] = found[0]
    elif name == WORKSPACE:
        raise missing(PER_USER)
    elif folder.is_dir():
        raise StageError(f"{name}: found no {PER_USER} in it")
    else:
        source = _open_revision(name)
    try:
        return read_evaluation(source)
    except DamagedError as error:
        raise StageError(f"{name}: its {PER_USER} is damaged ({error}); make it again (dvc repro)") from error
    except ValueError as error:
        raise StageError(
            f"{name}: found users without values: a twin, which has no accuracy to compare, or another file"
        ) from error


def _open_revision(name: str) -> IO[bytes]:
    """The parquet of a DVC experiment or git revision, read completely from DVC's cache."""
    try:
        import dvc.api
        from dvc.exceptions import DvcException, FileMissingError, OutputNotFoundError, PathMissingError
        from dvc.scm import SCMError
    except ImportError:
        raise StageError(
            f"{name}: found no folder of this name, and DVC is not installed, which knows experiments and revisions; "
            "allowed: a folder, or install dvc"
        ) from None

    try:
        path = f"{checkout_prefix()}{PER_USER}"  # of a revision, DVC reads the whole git repository
        return io.BytesIO(dvc.api.read(path, rev=name, mode="rb"))
    except SCMError as error:
        raise StageError(
            f"{name}: found no folder, experiment or revision of this name; `dvc exp show` lists the experiments"
        ) from error
    except (FileMissingError, OutputNotFoundError, PathMissingError) as error:
        raise StageError(
            f"{name}: found no {PER_USER} of it in DVC's cache: nothing was run in this revision, or its outputs were "
            f"removed; `dvc fetch` brings them from a remote, `dvc exp run` makes them"
        ) from error
    except (DvcException, OSError) as error:
        raise StageError(f"{name}: its {PER_USER} cannot be read: {error}") from error


def compare_runs(
    run_a: Evaluation, run_b: Evaluation, *, names: tuple[str, str], metric: str, k: int, level: float, resamples: int
) -> list[Comparison]:
    """Compare two runs over the same users by all metrics at one k, and by one further metric, such as ``ndcg@10``.

    `level` and `resamples` are those of `rec_eval.compare`.

    Raises:
        StageError: the runs were not tested on the same users and targets, or lack the metric or the k.
    """
    if run_a.num_users != run_b.num_users or _differing(run_a.user_ids, run_b.user_ids):
        raise StageError(
            f"{names[0]} and {names[1]}: found different test users ({run_a.num_users:,} and {run_b.num_users:,}), "
            "allowed: two runs over one data set and one split"
        )
    if others := _differing(run_a.targets, run_b.targets):
        raise StageError(
            f"{names[0]} and {names[1]}: found the same test users with other targets ({others:,} of "
            f"{run_a.num_users:,}), allowed: two runs over one data set and one split"
        )
    shared = [name for name in run_a.per_user if name in run_b.per_user]
    ks = [each for each in run_a.ks if each in run_b.ks]
    if k not in ks:
        raise StageError(f"--k: found {k}, allowed: {', '.join(map(str, ks)) or 'none, no k is in both runs'}")
    if metric not in shared:
        metrics = ", ".join(dict.fromkeys(name.split("@")[0] for name in shared))
        raise StageError(
            f"--metric: found {metric!r}, allowed: METRIC@K with a metric of {metrics} and a k of "
            f"{', '.join(map(str, ks))}"
        )
    chosen = [name for name in shared if name.endswith(f"@{k}")]
    options = {"name_a": names[0], "name_b": names[1], "level": level, "resamples": resamples}
    return [compare(run_a, run_b, name, **options) for name in dict.fromkeys([*chosen, metric])]  # type: ignore[arg-type]


def _differing(ids_a: npt.NDArray[Any] | None, ids_b: npt.NDArray[Any] | None) -> int:
    """How many ids differ, or how many more there are in one run; 0 if one run does not record them."""
    if ids_a is None or ids_b is None:
        return 0
    return abs(len(ids_a) - len(ids_b)) or sum(a != b for a, b in zip(ids_a, ids_b, strict=True))


def table(rows: list[Comparison], run_a: Evaluation, run_b: Evaluation, k: int) -> str:
    """The comparisons as a markdown table.

    Coverage is a property of all lists together, so it has no interval.
    """
    first = rows[0]
    header = ("metric", first.name_a, first.name_b, "difference", f"{first.level:.0%} interval", "p")
    lines = []
    for row in rows:
        means = (f"{row.mean_a:.4f}", f"{row.mean_b:.4f}", f"{row.difference:+.4f}")
        interval = "too few users" if math.isnan(row.low) else f"{row.low:+.4f} to {row.high:+.4f}"
        lines.append((row.metric, *means, interval, f"{row.p_value:.2g}"))
    coverage = f"coverage@{k}"
    if coverage in run_a.catalogue and coverage in run_b.catalogue:
        a, b = run_a.catalogue[coverage], run_b.catalogue[coverage]
        lines.append((coverage, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}", "", ""))
    return render(header, lines)
