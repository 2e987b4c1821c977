"""Where downloads are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of downloads: ``$REC_DATA_CACHE``, or ``rec_data`` in the user's cache folder."""
    if folder := os.environ.get("REC_DATA_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rec_data"
