"""Files of Kaggle data sets, through Kaggle's own client."""

import os
import shutil
from pathlib import Path

from rec_data.errors import DataError
from rec_data.locks import locked
from rec_data.raw.archives import extract
from rec_data.sources.http import OTHERWISE, check, keep

_HELP = (
    "set KAGGLE_USERNAME and KAGGLE_KEY (or KAGGLE_API_TOKEN) in the environment, or put Kaggle's token file where its "
    "client looks (~/.kaggle); or name a folder that already holds the file in download.mirror"
)


def download(dataset: str, file: str, path: Path) -> Path:
    """Download one file of a Kaggle data set, unless it is there already. The client resumes interrupted transfers.

    The data set is named ``owner/name``; the result is ``path``.

    Raises:
        DataError: There are no credentials, Kaggle refuses, the first bytes do not fit the file's suffix, or a file
            that is there already has changed since its download.
    """
    if not path.exists() and not has_credentials():
        raise DataError(f"Kaggle data set {dataset} needs credentials, and none were found: {_HELP}")
    with locked(path):
        if path.exists():
            check(path, None)
            return path
        folder = path.with_name(path.name + ".kaggle")
        folder.mkdir(exist_ok=True)
        _ask_client(dataset, file, folder)
        found, zipped = folder / file, folder / (file + ".zip")
        try:
            if not found.exists():  # Kaggle compresses some files for the transfer
                found = extract(zipped, folder / "unpacked") / file
            if not found.is_file():
                problem = "its archive does not hold the file"
                raise DataError(f"Kaggle data set {dataset}, file {file}: {problem}; {OTHERWISE}")
            keep(found, path)
        finally:
            shutil.rmtree(folder)  # a file that is not kept cannot be resumed either
    return path


def _ask_client(dataset: str, file: str, folder: Path) -> None:
    from kaggle.api.kaggle_api_extended import KaggleApi

    client = KaggleApi()
    try:
        client.authenticate()
        client.dataset_download_file(dataset, file, path=str(folder), quiet=False)
    except SystemExit as error:  # the client exits if it finds no credentials that it accepts
        raise DataError(f"Kaggle's client does not accept the credentials: {_HELP}") from error
    except Exception as error:  # the client raises its own, requests' and bare exceptions
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"Kaggle data set {dataset}, file {file}: {reason}; {OTHERWISE}") from error


def has_credentials() -> bool:
    """Whether there are credentials that Kaggle's client could use."""
    variables = os.environ
    if variables.get("KAGGLE_API_TOKEN") or (variables.get("KAGGLE_USERNAME") and variables.get("KAGGLE_KEY")):
        return True
    folders = [Path(variables.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle"), Path.home() / ".config" / "kaggle"]
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    return any((folder / name).exists() for folder in folders for name in names)
