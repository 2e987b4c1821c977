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
from cutrec.config import from_mapping, load, read_yaml
from cutrec.errors import StageError, UsageError
from cutrec.nested import changed
from cutrec.outputs import read_json
from cutrec.paths import DATA, LOG, PARAMS, live_checkout

_SHOWN = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "id of a user; may be given several times (--user=-7 for an id that begins with a dash)"
    parser.add_argument("--user", action="append", type=str, default=[], metavar="ID", help=text)
    text = "file of ids: text with one per line, or parquet or CSV with the user column of the log, or with one column"
    parser.add_argument("--users", type=local_path, metavar="FILE", help=text)
    text = "change of params.yaml for reading --users: download.format.encoding=latin-1, ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only count, and say what else holds their data")


def run(options: Namespace) -> None:
    """Find the users, rewrite what holds them and say what is left."""
    if not options.user and options.users is None:
        raise UsageError("forget: found no user, allowed: --user ID, or --users FILE; --help lists the options")
    if options.changes and options.users is None:
        raise UsageError("-S: it changes how --users are read, which are not given")
    config = load()

    from cutrec.workflow.forget import find_users, has_forgotten, leftovers, remove_users
    from cutrec.workflow.user_copies import find_copies
    from cutrec.workflow.user_ids import Users, read_users
    from rec_data.locks import locked

    log = LOG.with_name("summary.json")
    if log.is_file() and (known := read_json(log)["dataset"]) != config.dataset:
        raise StageError(
            f"dataset: found {config.dataset!r}, but {LOG} is the log of {known!r}, allowed: the params.yaml of that "
            "run, which says what else holds these users (dvc exp apply)"
        )
    ids = list(options.user)
    if options.users is not None:
        settings = from_mapping(changed(read_yaml(PARAMS), options.changes, ("download",))).download
        ids += read_users(options.users, root=live_checkout(), settings=settings)
    users = Users(ids)
    with locked(DATA / "forget"):  # of two calls at once, the second one finds what the first one left
        found = find_users(users)
        unknown = sorted(users.ids.difference(*found.values()))
        listed = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        if not (found or has_forgotten() or leftovers()):
            raise StageError(
                f"found nobody with the id {listed} in the log, the split and the lists below data/, allowed: ids as "
                "the log holds them"
            )
        if unknown:
            why = "skipped" if found else "skipped, who may have been forgotten before"
            print(f"note: unknown users are {why}: {len(unknown):,}: {listed}", file=sys.stderr)
        if options.dry_run:
            lines = [f"{path}: {counts.total():,} rows" for path, counts in found.items()]
            lines += [f"{path}: what a killed process has left beside it" for path in leftovers()]
        else:
            lines = remove_users(users, found)
    copies = find_copies(config, users, Path())
    print(*lines, "Still there:", *(f"- {line}" for line in copies.where), sep="\n")
    print("To remove these too, in this order:")
    print(*(f"{number}. {line}" for number, line in enumerate(copies.cures, start=1)), sep="\n")
