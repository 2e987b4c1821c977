"""The titles and groups of items in the file that ``report.item_names`` names."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cutrec.config_point import Config

if TYPE_CHECKING:
    from rec_data.arrays import Int64s
    from rec_data.raw.titles import Titles

KEY = "report.item_names"


def identify(config: Config, *, root: Path) -> dict[str, str]:
    """The hash of the files that ``report.item_names`` names, which are checked here, before anything is trained.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if config.report.item_names is None:
        return {}
    from rec_data.raw.files import digest
    from rec_data.raw.finding import find

    item_titles(config, [], root=root)
    return {path.name: digest(path) for path in find(config.report.item_names, root=root, what=KEY)}


def item_titles(config: Config, wanted: Iterable[object], *, root: Path) -> "Titles | None":
    """The titles of the wanted ids of items; None without ``report.item_names``.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if config.report.item_names is None:
        return None
    from rec_data.raw.titles import read_titles

    item = str(config.download.columns.item)
    return read_titles(config.report.item_names, wanted, root=root, what=KEY, item=item)


def item_groups(config: Config, ids: Iterable[object], *, root: Path) -> "Int64s | None":
    """The number of the group of each of the ids, -1 for none; None without a file with a column ``group``.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if config.report.item_names is None:
        return None
    from rec_data.raw.titles import read_groups

    item = str(config.download.columns.item)
    return read_groups(config.report.item_names, ids, root=root, what=KEY, item=item)
