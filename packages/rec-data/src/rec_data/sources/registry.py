"""The published data sets, as data: what to fetch, in which format it comes, and which rows the paper keeps."""

from dataclasses import dataclass

from rec_data.schema import Columns

VERSION = 1
"""Raise it whenever the same raw file would give another log."""


@dataclass(frozen=True)
class Raw:
    """One raw file that a data set can be read from."""

    file: str
    """Its name in the cache and in a mirror."""

    reader: str
    """One of ``rec_data.raw.formats.READERS``."""

    columns: Columns
    """The columns of what the reader gives."""

    fetcher: str | None = None
    """``http``, ``yandex_disk`` or ``kaggle``; None: only from a mirror."""

    address: str = ""
    """URL, public key, or ``owner/name`` of the Kaggle data set."""

    checksum: str | None = None
    """``md5:<hex>`` or ``sha256:<hex>`` where its publisher states one; otherwise recorded at the first download."""

    keep: tuple[str, int] | None = None
    """Keep the rows in which this column has this value."""


@dataclass(frozen=True)
class Source:
    """A published data set."""

    raws: tuple[Raw, ...]
    """The first is downloaded; a mirror may hold any of them."""

    above: float | None = None
    """Keep ratings above this, unless the user sets a limit of their own."""


_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_RS_RATINGS = Columns("user_id", "item_id", "timestamp", "rating")
_AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only/"


def _movielens(version: str, checksum: str | None, *, above: float | None = None) -> Source:
    file = f"ml-{version}.zip"
    return Source((Raw(file, "movielens", _RS_RATINGS, "http", _GROUPLENS + file, checksum),), above)


SOURCES: dict[str, Source] = {
    "movielens_20m": _movielens("20m", "md5:cd245b17a1ae2cc31bb14903e1204af3", above=3.0),
    "beauty": Source(
        (
            Raw(
                "Beauty_and_Personal_Care.csv.gz",
                "csv",
                Columns("user_id", "parent_asin", "timestamp", "rating"),
                "http",
                _AMAZON_2023 + "Beauty_and_Personal_Care.csv.gz",
            ),
        ),
        above=3.0,
    ),
    "zvuk": Source(
        (
            Raw(
                "zvuk-interactions.parquet",
                "parquet",
                Columns("user_id", "track_id", "datetime"),
                "kaggle",
                "alexxl/zvuk-dataset",
            ),
        )
    ),
    "megamarket": Source(
        (
            Raw(
                "megamarket.parquet",
                "parquet",
                Columns("user_id", "item_id", "datetime"),
                "kaggle",
                "alexxl/megamarket",
                keep=("event", 2),
            ),
        )
    ),
    "30music": Source(
        (
            Raw(
                "30music.parquet",
                "parquet",
                Columns("user_id", "item_id", "timestamp"),
                "yandex_disk",
                "https://disk.yandex.ru/d/XwRRFVuJG-ECng",
            ),
            Raw("events.idomaar", "idomaar", Columns("user", "track", "time")),
            Raw("events.idomaar.gz", "idomaar", Columns("user", "track", "time")),
        )
    ),
    "gowalla": Source(
        (
            Raw(
                "loc-gowalla_totalCheckins.txt.gz",
                "checkins",
                Columns("user", "location", "time"),
                "http",
                "https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz",
            ),
            Raw("loc-gowalla_totalCheckins.txt", "checkins", Columns("user", "location", "time")),
            Raw(
                "gowalla.parquet",
                "parquet",
                Columns("userId", "locationId", "checkInTime"),
                "yandex_disk",
                "https://disk.yandex.ru/d/PaPpcpwkWcHRHg",
            ),
        )
    ),
    "ml_100k": _movielens("100k", "md5:0e33842e24a9c977be4e0107933c0723"),
    "ml_1m": _movielens("1m", "md5:c4d9eecfca2ab87c1945afe126590906"),
    "ml_10m": _movielens("10m", "md5:ce571fd55effeba0271552578f2648bd"),
    "ml_20m": _movielens("20m", "md5:cd245b17a1ae2cc31bb14903e1204af3"),
    "ml_25m": _movielens("25m", "md5:6b51fb2759a8657d3bfcbfc42b592ada"),
    "ml_latest_small": _movielens(
        "latest-small", None
    ),  # its publisher replaces this one and the next from time to time
    "ml_latest": _movielens("latest", None),
}


# fmt: off
_AMAZON_2018 = (
    "fashion", "beauty", "appliances", "arts", "automotive", "books", "cds", "phones", "clothing", "music",
    "electronics", "cards", "grocery", "kitchen", "scientific", "kindle", "luxury", "subscriptions", "movies",
    "musical instruments", "office", "garden", "pet", "pantry", "software", "sports", "tools", "toys", "games",
)
# fmt: on


@dataclass(frozen=True)
class RsSet:
    """A further set of rs_datasets, fetched and read by it, as it gives it: no checksum, no resume."""

    loader: str
    """Its class in rs_datasets."""

    folder: str
    """Its folder below the data folder."""

    table: str
    """The attribute that holds the interactions."""

    columns: Columns

    files: tuple[tuple[str, ...], ...]
    """The files below its folder that the class reads; one of each group must be there, the first that is counts."""

    category: str | None = None
    """Amazon (2018) only."""


def _amazon_2018(category: str) -> RsSet:
    return RsSet("Amazon", "amazon", "ratings", _RS_RATINGS, ((f"{category}.csv",),), category)


RS_SETS: dict[str, RsSet] = {
    **{f"amazon_{category.replace(' ', '_')}": _amazon_2018(category) for category in _AMAZON_2018},
    "netflix": RsSet(
        "Netflix",
        "netflix",
        "train",
        _RS_RATINGS,
        (("clean/train.parquet", "clean/train.csv"), ("clean/movies.csv",), ("clean/test.csv",)),
    ),
    "yoochoose": RsSet(
        "YooChoose",
        "yoochoose",
        "log",
        Columns("session_id", "item_id", "ts"),
        (("yoochoose-clicks.dat",), ("yoochoose-buys.dat",), ("yoochoose-test.dat",)),
    ),
}

UNUSABLE = {
    **dict.fromkeys(
        ("anime", "book_crossing", "epinions", "goodreads", "jester", "lastfm", "msd", "steam"),
        "it has no times, so there is no order to learn from",
    ),
    "diginetica": "its order is spread over two columns; make one time column and name the file instead",
    "rekko": "its times are obfuscated",
    "retail_rocket": "rs_datasets 0.5.1 cannot read it with pandas 2 or later; name its events.csv instead",
}
"""Sets of rs_datasets that no log can be made of, and why."""
