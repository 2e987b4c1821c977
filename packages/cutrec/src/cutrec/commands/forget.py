"""Forget users: rewrite log, split and lists without them, and say what else holds their data.

Ids are compared exactly as the log holds them. Models keep working, but were trained on the users' events; the source
and DVC's cache still hold them, and ``dvc repro`` alone would bring them back. The printed commands, in their order,
remove these copies too. Run it again after a kill.

Example:
    uv run cutrec forget --user 4711 --user 4712 --dry-run
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_path
from cutrec.config import load
from cutrec.errors import StageError, UsageError
from cutrec.outputs import read_json
from cutrec.paths import LOG, live_checkout

_SHOWN = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "id of a user; may be given several times (--user=-7 for an id that begins with a dash)"
    parser.add_argument("--user", action="append", type=str, default=[], metavar="ID", help=text)
    text = "file of ids: text with one per line, or parquet or CSV with the user column of the log, or with one column"
    parser.add_argument("--users", type=local_path, metavar="FILE", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only count, and say what else holds their data")


def run(options: Namespace) -> None:
    """Find the users, rewrite what holds them and say what is left."""
    if not options.user and options.users is None:
        raise UsageError("forget: found no user, allowed: --user ID, or --users FILE; --help lists the options")
    config = load()

    from cutrec.workflow.forget import Users, find_users, read_users, remove_users
    from cutrec.workflow.user_copies import find_copies

    log = LOG.with_name("summary.json")
    if log.is_file() and (known := read_json(log)["dataset"]) != config.dataset:
        raise StageError(
            f"dataset: found {config.dataset!r}, but {LOG} is the log of {known!r}, allowed: the params.yaml of that "
            "run, which says what else holds these users (dvc exp apply)"
        )
    root = live_checkout()
    ids = list(options.user)
    if options.users is not None:
        ids += read_users(options.users, root=root, settings=config.download)
    users = Users(ids)
    found = find_users(users)
    unknown = sorted(users.ids.difference(*found.values()))
    listed = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
    if not found:
        raise StageError(
            f"found nobody with the id {listed} in the log, the split and the lists below data/, allowed: ids as the "
            "log holds them"
        )
    if unknown:
        print(f"note: unknown users are skipped: {len(unknown):,}: {listed}", file=sys.stderr)
    if options.dry_run:
        lines = [f"{path}: {counts.total():,} rows" for path, counts in found.items()]
    else:
        lines = remove_users(users, found)
    copies = find_copies(config, users, Path())
    print(*lines, "Still there:", *(f"- {line}" for line in copies.where), sep="\n")
    print("To remove these too, in this order:")
    print(*(f"{number}. {line}" for number, line in enumerate(copies.cures, start=1)), sep="\n")
