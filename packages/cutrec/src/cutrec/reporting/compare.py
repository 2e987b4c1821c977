"""Compare two runs user by user, or several runs of each of two settings. Differences are second minus first."""

import dataclasses
import functools
import io
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cutrec.checksums import missing
from cutrec.environment import checkout_prefix
from cutrec.errors import StageError
from cutrec.paths import PER_USER
from cutrec.reporting.text_table import render
from rec_eval import (
    Comparison,
    DamagedError,
    Evaluation,
    SeedComparison,
    compare,
    compare_seeds,
    read_evaluation,
)

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
    chosen = _chosen([run_a, run_b], metric, k)
    options = {"name_a": names[0], "name_b": names[1], "level": level, "resamples": resamples}
    return [compare(run_a, run_b, name, **options) for name in chosen]  # type: ignore[arg-type]


def over_seeds(
    runs_a: Sequence[Evaluation],
    runs_b: Sequence[Evaluation],
    *,
    names: tuple[Sequence[str], Sequence[str]],
    metric: str,
    k: int,
    level: float,
) -> tuple[list[SeedComparison], list[Evaluation], list[Evaluation]]:
    """Compare two settings over several seeds of each by all metrics at one k, and by one further metric.

    Returns:
        The comparisons, and the runs of both settings over the users whom all of them tested on the same target.

    Raises:
        StageError: a side has one run only, two of its runs are the same, or the runs share no users, the metric or k.
    """
    for side, (own, other, found) in enumerate(((*names, runs_a), (*names[::-1], runs_b))):
        if len(found) == 1:
            raise StageError(
                f"{'AB'[side]}: found 1 run, {own[0]}, beside {len(other)}, allowed: at least 2 of different seeds, "
                "with commas between their names, or one run on both sides"
            )
        for one, another in itertools.combinations(range(len(found)), 2):
            if _equal(found[one], found[another]):
                raise StageError(
                    f"{own[one]} and {own[another]}: found equal values of all users, allowed: runs of different seeds"
                )
    chosen = _chosen([*runs_a, *runs_b], metric, k)
    runs = _shared([*runs_a, *runs_b])
    most = max(run.num_users for run in [*runs_a, *runs_b])
    if runs[0].num_users < most:
        text = f"of up to {most:,} users of a run, those count whom all runs tested on the same target"
        print(f"note: {text}: {runs[0].num_users:,}", file=sys.stderr)
    a, b = runs[: len(runs_a)], runs[len(runs_a) :]
    labels = [os.path.commonprefix(list(side)).rstrip("-_.=/ ") for side in names]  # noqa: RUF071  exact-1, exact-2
    if not all(labels) or labels[0] == labels[1]:
        labels = ["A", "B"]
    compared = [compare_seeds(a, b, name, name_a=labels[0], name_b=labels[1], level=level) for name in chosen]
    return compared, a, b


def _equal(run_a: Evaluation, run_b: Evaluation) -> bool:
    """Whether two runs have the same values."""
    return run_a.num_users == run_b.num_users and all(
        np.array_equal(values, run_b.per_user.get(name, values[:0]), equal_nan=True)
        for name, values in run_a.per_user.items()
    )


def _shared(runs: list[Evaluation]) -> list[Evaluation]:
    """The runs over the users whom all of them tested on the same target, in one order."""
    ids = [run.user_ids for run in runs if run.user_ids is not None]
    if len(ids) < len(runs):
        raise StageError("several seeds: found a run without ids of users, allowed: runs of this version")
    codes = np.unique(np.concatenate(ids), return_inverse=True)[1]
    keys = [_list_keys(own, len(codes)) for own in np.split(codes, np.cumsum([len(own) for own in ids])[:-1])]
    common = functools.reduce(np.intersect1d, keys)
    places = [np.argsort(key)[np.searchsorted(key, common, sorter=np.argsort(key))] for key in keys]
    found = [run.targets[place] for run, place in zip(runs, places, strict=True) if run.targets is not None]
    same = np.ones(len(common), dtype=bool)
    for one, another in itertools.pairwise(found):
        same &= one == another
    users = len(np.unique(common[same] // len(codes)))
    if users < 2:
        raise StageError(
            f"several seeds: found {users} users whom all runs tested on the same target, allowed: at least 2; "
            "compare runs over one data set and one kind of split"
        )
    return [
        dataclasses.replace(
            run,
            per_user={name: values[place[same]] for name, values in run.per_user.items()},
            num_users=users,
            user_ids=own[place[same]],
            targets=None if run.targets is None else run.targets[place[same]],
        )
        for run, own, place in zip(runs, ids, places, strict=True)
    ]


def _list_keys(users: npt.NDArray[np.int64], base: int) -> npt.NDArray[np.int64]:
    """``[L]`` a number for each list: its user, and which of the lists of this user, next to each other, it is."""
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    lists = np.arange(len(users))
    return users * base + lists - starts[np.searchsorted(starts, lists, side="right") - 1]


def _chosen(runs: list[Evaluation], metric: str, k: int) -> list[str]:
    """The metrics at one k that all runs have, and the one that is asked for."""
    shared = [name for name in runs[0].per_user if all(name in run.per_user for run in runs)]
    ks = [each for each in runs[0].ks if all(each in run.ks for run in runs)]
    if k not in ks:
        raise StageError(f"--k: found {k}, allowed: {', '.join(map(str, ks)) or 'none, no k is in all runs'}")
    if metric not in shared:
        metrics = ", ".join(dict.fromkeys(name.split("@")[0] for name in shared))
        raise StageError(
            f"--metric: found {metric!r}, allowed: METRIC@K with a metric of {metrics} and a k of "
            f"{', '.join(map(str, ks))}"
        )
    return list(dict.fromkeys([*(name for name in shared if name.endswith(f"@{k}")), metric]))


def _differing(ids_a: npt.NDArray[Any] | None, ids_b: npt.NDArray[Any] | None) -> int:
    """How many ids differ, or how many more there are in one run; 0 if one run does not record them."""
    if ids_a is None or ids_b is None:
        return 0
    return abs(len(ids_a) - len(ids_b)) or sum(a != b for a, b in zip(ids_a, ids_b, strict=True))


def table(
    rows: Sequence[Comparison | SeedComparison], runs_a: Sequence[Evaluation], runs_b: Sequence[Evaluation], k: int
) -> str:
    """The comparisons as a markdown table, over several seeds with the standard errors of users and seeds.

    Coverage is a property of all lists together, so it has no interval.
    """
    first = rows[0]
    header = ["metric", first.name_a, first.name_b, "difference", f"{first.level:.0%} interval", "p"]
    if isinstance(first, SeedComparison):
        header += ["error of users", "error of seeds"]
    lines = []
    for row in rows:
        means = (f"{row.mean_a:.4f}", f"{row.mean_b:.4f}", f"{row.difference:+.4f}")
        interval = "too few users" if math.isnan(row.low) else f"{row.low:+.4f} to {row.high:+.4f}"
        line = [row.metric, *means, interval, f"{row.p_value:.2g}"]
        if isinstance(row, SeedComparison):
            line += [f"{row.error_users:.4f}", f"{row.error_seeds:.4f}" if row.error_seeds else "too small to see"]
        lines.append(line)
    coverage = f"coverage@{k}"
    if all(coverage in run.catalogue for run in (*runs_a, *runs_b)):
        a, b = (float(np.mean([run.catalogue[coverage] for run in runs])) for runs in (runs_a, runs_b))
        lines.append([coverage, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}", *[""] * (len(header) - 4)])
    return render(header, lines)
