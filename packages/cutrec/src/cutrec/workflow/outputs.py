"""What every stage shares: one-line errors, outputs that appear whole or not at all, JSON, and where things lie."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from cutrec import config

DATA = Path("data")
"""The outputs of the stages, ``data/<stage>/...``, relative to the root of the repository."""


class StageError(ValueError):
    """A stage cannot go on; the text is one line for the person who runs it."""


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage and leave the process: 0 when it succeeds, 1 with one line on stderr when its input is at fault.

    Errors that a person can mend are ``ValueError``s (of params, data, models) and missing or unreadable files.
    Anything else is a defect of ours and keeps its traceback; CUTREC_TRACEBACK=1 keeps it for all.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(1)
    except (ValueError, OSError) as error:
        if os.environ.get("CUTREC_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


@contextmanager
def output(final: Path) -> Iterator[Path]:
    """A temporary directory whose entries move to ``final`` when the block ends, and vanish when it fails.

    The directory lies beside ``final`` (same file system: each entry moves by one rename). Entries of ``final`` that
    the block did not write stay. What a killed run left behind is removed by the next one.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".tmp-{final.name}-"
    for leftover in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    try:
        yield temporary
        final.mkdir(exist_ok=True)
        for entry in sorted(temporary.iterdir()):
            target = final / entry.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            entry.replace(target)
    finally:
        shutil.rmtree(temporary)


def room_for_folder(option: str, folder: Path) -> None:
    """Make a folder before the work whose outcome goes there.

    Args:
        option: that names it, for the message.
        folder: it and its parents are made if missing.

    Raises:
        StageError: something else is there, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise StageError(f"{option}: found {folder}, allowed: a folder, or a place where one can be made") from None
    if not os.access(folder, os.W_OK):
        raise StageError(f"{option}: found {folder}, allowed: a folder that can be written to")


def room_for_file(option: str, path: Path) -> None:
    """Make the folder of a file before the work whose outcome goes there.

    Raises:
        StageError: a folder is there, or its place cannot be written to.
    """
    if path.is_dir():
        raise StageError(f"{option}: found {path}, a folder, allowed: a file")
    room_for_folder(option, path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as JSON, indented, one trailing newline, keys in the given order."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def mirror(point: config.Config) -> Path | None:
    """The folder of raw files that ``download.mirror`` names, absolute or relative to the repository."""
    return checkout() / point.download.mirror if point.download.mirror else None


def checkout() -> Path:
    """The root of the live checkout: the current directory, also when that is DVC's temporary copy of a queued run.

    A queued experiment runs in ``<checkout>/.dvc/tmp/exps/<copy>``. Its code is its own, but a relative path to a log
    of one's own, which git does not track, and the checkpoints that survive a kill belong to the checkout.
    """
    here = Path.cwd().resolve()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return here
