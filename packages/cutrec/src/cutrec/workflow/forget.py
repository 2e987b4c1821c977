"""Remove users from the log, the split and the lists of a checkout, so that nothing below ``data/`` names them.

Every folder and file is replaced whole, by renaming. After a kill, each holds either its old or its new content, and
the same call does the rest.
"""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cutrec.checksums import checksum, read_output, verify_folder, write_checksums
from cutrec.errors import StageError
from cutrec.outputs import atomic_file, read_json, recover, replaced_folder, temporary_folder, write_json
from cutrec.paths import COMPLETE, DATA, LOG, MODEL, OLD_MODEL, PER_USER, SPLIT, STAGES, UPDATE
from cutrec.stores import refuse_parts
from cutrec.workflow.user_ids import Users
from cutrec.workflow.user_rows import count_rows, filter_csv, filter_parquet, is_list
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.locks import is_locked, locked
from rec_data.raw import finding
from rec_data.schema import USER
from rec_data.splits.forget import EVERYBODY, forget_users
from rec_eval import first_lists, read_evaluation, write_evaluation

RECOMMENDATIONS = "recommendations.parquet"
_EXAMPLES = Path("details") / "examples.json"
_WRITERS = [LOG.parent, SPLIT, PER_USER.parent, DATA / "report"]
"""Folders whose writers are waited for; what others write holds no events of users."""
_ROUNDS = 5
"""How often users are removed who are found again, because other processes have written files meanwhile."""


def find_users(users: Users, data: Path = DATA) -> dict[Path, Counter[str]]:
    """Count the rows of each user in the log, the split and the lists, which nobody else writes meanwhile.

    Returns:
        The rows by user, for each file that holds at least one of the users.

    Raises:
        ValueError: A file is damaged.
    """
    with ExitStack() as stack:
        for folder in (data / path.relative_to(DATA) for path in _WRITERS):
            stack.enter_context(locked(folder))
            if not folder.exists():
                recover(folder)
        for path in tables_outside_stages(data)[1]:
            if path.suffix == ".part":
                with locked(path.with_suffix("")):  # a list that another process writes may hold the users
                    pass
        return _search(users, data)


def _search(users: Users, data: Path) -> dict[Path, Counter[str]]:
    """The rows of each user, for each file that holds some."""
    found: dict[Path, Counter[str]] = {}
    count = partial(count_rows, users)
    log, names, per_user, examples = (
        data / path.relative_to(DATA) for path in (LOG, SPLIT / "users.parquet", PER_USER, PER_USER.parent / _EXAMPLES)
    )
    lists = tables_outside_stages(data)[0]
    for path in (log, per_user, per_user.with_name(RECOMMENDATIONS), names, examples):
        if path.is_file():
            found[path] = read_output(count, path)
    for path in lists:
        try:
            found[path] = count(path)
        except DataError as error:
            raise StageError(f"{error}; delete it, or write it again: cutrec recommend --out {path}") from error
    return {path: counts for path, counts in found.items() if counts}


def made_again(data: Path = DATA) -> dict[Path, str]:
    """The folders below ``data/`` that a command makes again, and the command.

    Backtests are found by a complete step of a window, such as ``1/split/``, and updates by the name of their folder.
    """
    windows = (path.parents[1] for path in data.rglob(f"[0-9]*/*/{COMPLETE}"))
    found = {window.parent: "backtest" for window in windows if window.name.isdecimal()}
    return dict(sorted((found | {path: "update" for path in data.glob(f"{UPDATE.name}*") if path.is_dir()}).items()))


def tables_outside_stages(data: Path = DATA) -> tuple[list[Path], list[Path]]:
    """The parquet and text files below ``data/`` that no stage, backtest or update wrote.

    Returns:
        The lists of recommendations, and the other files, unfinished ones among them.
    """
    lists: list[Path] = []
    others: list[Path] = []
    made = made_again(data)
    for top in sorted(path for path in data.glob("[!.]*") if path.name not in STAGES):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if any(path.is_relative_to(folder) for folder in made):
                continue
            hidden = any(part.startswith(".") for part in path.relative_to(data).parts)
            of_a_model = any((path.parent / name).is_file() for name in (MODEL.name, OLD_MODEL))
            if finding.format_of(path.name.removesuffix(".part")) and path.is_file() and not (hidden or of_a_model):
                (lists if is_list(path) else others).append(path)
    return lists, others


def leftovers(data: Path = DATA) -> list[Path]:
    """The folders beside which a killed process left what it was writing."""
    temporary = (path for path in data.rglob(".tmp-*") if path.is_dir())
    finals = {*(data / stage for stage in STAGES), *(path.with_name(path.name[len(".tmp-") :]) for path in temporary)}
    return sorted(final for final in finals if temporary_folder(final).exists() and not is_locked(final))


def has_forgotten(data: Path = DATA) -> bool:
    """Whether users were removed from this log or this split before."""
    keys = {data / "download" / "summary.json": "rows_forgotten", data / "split" / "summary.json": "forgotten_users"}
    return any(path.is_file() and key in read_json(path) for path, key in keys.items())


def remove_users(users: Users, found: dict[Path, Counter[str]], data: Path = DATA) -> list[str]:
    """Write the files that `find_users` found again, without the users.

    The log and the split come first: if nobody would be left, nothing is written. A command that read them before may
    have written a list since the search, or end one now, so the search is repeated until it finds nothing.

    Returns:
        What was done, one line per folder or file, without an id.

    Raises:
        StageError: Other processes write the users again and again.
        ValueError: A file is damaged, or nobody would be left.
        OSError: A file cannot be written.
    """
    if (split := data / SPLIT.relative_to(DATA)) / "users.parquet" in found:
        cure = f"remove it (rm -r {split}), run this again, and split the log again (dvc repro)"
        refuse_parts(split, cure)
    lines = _remove_found(users, found, data)
    for _ in range(_ROUNDS):
        if not (again := find_users(users, data)):
            if found:
                lines += _remove_page(data)
            return lines
        lines += _remove_found(users, again, data)
    written = ", ".join(map(str, again))
    raise StageError(
        f"{written}: found that other processes write the users again, allowed: no other command of this checkout at "
        "work; then run the same command again"
    )


def _remove_found(users: Users, found: dict[Path, Counter[str]], data: Path) -> list[str]:
    """Write the files once; returns one line per folder or file."""
    lines = []
    log, split = (data / path.relative_to(DATA) for path in (LOG, SPLIT))
    with ExitStack() as stack:  # the split is put in place before the log
        fresh_log = None
        if log in found:
            without = ("SHA256SUMS", "summary.json", log.name)
            fresh_log = stack.enter_context(replaced_folder(log.parent, without=without)) / log.name
            lines.append(f"{log}: {_remove_from_log(users, log, fresh_log):,} rows removed")
        if split / "users.parquet" in found:
            fresh = stack.enter_context(replaced_folder(split, keep=False))
            verify_folder(split)
            gone = users.of_type(read_output(read_ids, split / "users.parquet").names.type)
            summary = read_output(lambda path: forget_users(path.parent, fresh, gone), split / "summary.json")
            if fresh_log is not None and summary.get("log_sha256") == checksum(log):
                write_json(fresh / "summary.json", summary | {"log_sha256": checksum(fresh_log)})
            write_checksums(fresh)
            lines.append(
                f"{split}: {summary['users']:,} users left; dense ids of users have changed, those of items not"
            )
            needs = {"train": (2, "evaluate"), "validation": (1, "train"), "test": (1, "evaluate")}
            for name, (fewest, stage) in needs.items():
                if (left := summary[name]["users"]) < fewest:
                    lines.append(f"{split}: {left} users left in {name}, too few for the stage {stage}")
        if found:
            lines += _remove_page(data)
    for path, counts in found.items():
        if path.relative_to(data).parts[0] not in STAGES:
            with atomic_file(path) as part:
                (filter_csv if path.suffix == ".csv" else filter_parquet)(users, path, part)
            lines.append(f"{path}: {counts.total():,} rows removed")
    evaluate = data / "evaluate"
    if any(path.is_relative_to(evaluate) for path in found):
        _remove_evaluated(users, evaluate)
        lines.append(f"{evaluate}: their lists, metrics and examples removed; the averages still count them")
    for final in leftovers(data):
        with locked(final):
            recover(final)
        lines.append(f"{final}: removed what a killed process had left beside it")
    return lines


def _remove_page(data: Path) -> list[str]:
    """Remove the page, which may show the users; if it was there, says so in a line."""
    page = data / "report" / "report.html"
    with locked(page.parent):
        if not page.is_file():
            return []
        page.unlink()
    return [f"{page}: removed, because it shows users as examples"]


def _remove_from_log(users: Users, log: Path, fresh: Path) -> int:
    """Write a log, its summary and its checksums without users; returns how many rows are gone."""
    verify_folder(log.parent)
    gone, left = filter_parquet(users, log, fresh)
    if left == 0:
        raise StageError(f"{log}: found nobody else, allowed: {EVERYBODY}")
    if (path := log.with_name("summary.json")).is_file():
        summary = read_json(path)
        summary |= {"rows": summary["rows"] - gone, "rows_forgotten": summary.get("rows_forgotten", 0) + gone}
        write_json(fresh.with_name(path.name), summary)
    write_checksums(fresh.parent)
    return gone


def _remove_evaluated(users: Users, evaluate: Path) -> None:
    """Remove the rows and examples of users from the outputs of the stage evaluate."""
    per_user, lists = evaluate / PER_USER.name, evaluate / RECOMMENDATIONS
    examples = evaluate / _EXAMPLES
    with replaced_folder(evaluate, without=("SHA256SUMS", per_user.name, lists.name, _EXAMPLES.name)) as fresh:
        verify_folder(evaluate)
        if lists.is_file():
            filter_parquet(users, lists, fresh / lists.name)
        if per_user.is_file() and b"rec_eval" not in (pq.read_schema(per_user).metadata or {}):
            filter_parquet(users, per_user, fresh / per_user.name)  # of a synthetic log: ids alone
        elif per_user.is_file():
            run = read_evaluation(per_user)
            keep = ~users.among(pq.read_table(per_user, columns=[USER])[USER]).to_numpy()
            values = {name: column[keep] for name, column in run.per_user.items()}
            without = int(np.isnan(values[f"ndcg@{run.ks[0]}"]).sum())
            ids = None if run.user_ids is None else run.user_ids[keep]
            targets = None if run.targets is None else run.targets[keep]
            left = int(keep.sum()) if ids is None else first_lists(ids).size
            run = replace(run, per_user=values, num_users=left, num_without_relevant=without)
            write_evaluation(replace(run, user_ids=ids, targets=targets), fresh / per_user.name)
        if examples.is_file():
            kept = [each for each in json.loads(examples.read_bytes()) if str(each["user"]) not in users.ids]
            text = json.dumps(kept, indent=1, default=str)
            (fresh / _EXAMPLES).write_text(text + "\n", encoding="utf-8")
        if (evaluate / "SHA256SUMS").is_file():
            write_checksums(fresh)
