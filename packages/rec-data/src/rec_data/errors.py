"""The error that users of this package can cause, and errors of writing."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, a quota is used up, and a limit on the size of files (``ulimit -f``) is reached."""


class DataError(ValueError):
    """The data, or its description, is wrong.

    The message is one line: what was found, where, and what is allowed.
    """


def refuse_if_full(path: Path, error: Exception) -> None:
    """Raise a ``DataError`` if an error of any library says that there is no space; a file that it names precedes."""
    for code in FULL:
        if os.strerror(code) in str(error) and not isinstance(error, DataError):
            path = Path(getattr(error, "filename", None) or path)
            raise DataError(f"{path} cannot be written: {os.strerror(code)} (in {path.parent})") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` while ``path`` is written into a ``DataError`` of one line."""
    try:
        yield
    except OSError as error:
        refuse_if_full(path, error)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
