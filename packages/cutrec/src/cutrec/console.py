"""What all commands share: exit codes, errors of one line, and checks of the place for an output."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cutrec.errors import StageError, UsageError
from cutrec.paths import DATA, STAGES


def run_and_exit(main: Callable[[], object]) -> NoReturn:
    """Run a command and end the process.

    The exit code is 0 on success, 1 with one line on stderr if the input is at fault, and 2 if the command line is.
    Errors that a user can correct are ``ValueError`` (of settings, data, models), ``OSError`` and ``MemoryError``. Any
    other exception is a defect of the program and keeps its traceback; ``CUTREC_TRACEBACK=1`` keeps that of all.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain when it flushes at exit
        sys.exit(1)
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("CUTREC_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def is_first_process() -> bool:
    """Whether this is the only process of a training, or the first of those that ``train.devices`` asks for.

    torchrun starts them, on several machines perhaps; otherwise the first one starts the others.
    """
    name = "RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "LOCAL_RANK"
    return os.environ.get(name, "0") == "0"


def prepare_output_folder(option: str, folder: Path) -> None:
    """Create the folder of an output, which an option chooses, so that a bad place is reported before the work starts.

    Raises:
        StageError: the path is taken by something else, belongs to the pipeline, or is not writable.
    """
    for stage in STAGES:
        if folder.resolve().is_relative_to((DATA / stage).resolve()):
            raise StageError(f"{option}: found {folder}, allowed: outside of {DATA / stage}, which the pipeline writes")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # whatever the permissions say: the file system may be read-only
            pass
    except OSError as error:
        reason = f"{folder} cannot be written to ({error.strerror})"  # possibly the default: the option is the cure
        raise StageError(f"{reason}, allowed: another folder, by {option}") from None


def prepare_output_file(option: str, path: Path) -> None:
    """Create the folder of an output file, so that a bad place is reported before the work starts.

    Raises:
        StageError: the path is a folder, or its folder belongs to the pipeline or is not writable.
    """
    if path.is_dir():
        raise StageError(f"{option}: found {path}, a folder, allowed: a file")
    prepare_output_folder(option, path.parent)
