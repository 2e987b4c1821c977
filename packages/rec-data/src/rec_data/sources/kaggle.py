"""Files of Kaggle data sets, through Kaggle's own client."""

import os
import shutil
from pathlib import Path

from rec_data.errors import DataError
from rec_data.raw.archives import extract
from rec_data.sources.http import check, keep, locked

_HELP = (
    "set KAGGLE_USERNAME and KAGGLE_KEY (or KAGGLE_API_TOKEN) in the environment, or put Kaggle's token file where its "
    "client looks (~/.kaggle); or name a folder that already holds the file in download.mirror"
)


def download(dataset: str, file: str, path: Path) -> Path:
    """Brings one file of a Kaggle data set here, once. The client resumes a transfer that broke off.

    Args:
        dataset: ``owner/name``.
        file: The file's name in the data set.
        path: Where it goes.

    Returns:
        ``path``.

    Raises:
        DataError: No credentials, Kaggle refuses, what came does not begin as the file's suffix says, or a file that
            is here already has changed since its download.
    """
    if not path.exists() and not has_credentials():
        raise DataError(f"Kaggle data set {dataset} needs credentials, and there are none: {_HELP}")
    with locked(path):
        if path.exists():
            check(path, None)
            return path
        folder = path.with_name(path.name + ".kaggle")
        folder.mkdir(exist_ok=True)
        _ask_client(dataset, file, folder)
        found = folder / file
        if not found.exists():  # Kaggle compresses some files on the way
            found = extract(folder / (file + ".zip"), folder / "unpacked") / file
        try:
            keep(found, path)
        finally:
            shutil.rmtree(folder)  # what is not kept is nothing to resume from either
    return path


def _ask_client(dataset: str, file: str, folder: Path) -> None:
    from kaggle.api.kaggle_api_extended import KaggleApi

    client = KaggleApi()
    try:
        client.authenticate()
        client.dataset_download_file(dataset, file, path=str(folder), quiet=False)
    except SystemExit as error:  # the client ends the program where it finds no credentials that it accepts
        raise DataError(f"Kaggle does not accept the credentials at hand: {_HELP}") from error
    except Exception as error:  # the client raises its own, requests' and bare exceptions
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"Kaggle data set {dataset}, file {file}: {reason}") from error


def has_credentials() -> bool:
    """Whether there is anything for Kaggle's client to authenticate with."""
    variables = os.environ
    if variables.get("KAGGLE_API_TOKEN") or (variables.get("KAGGLE_USERNAME") and variables.get("KAGGLE_KEY")):
        return True
    folders = [Path(variables.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle"), Path.home() / ".config" / "kaggle"]
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    return any((folder / name).exists() for folder in folders for name in names)
