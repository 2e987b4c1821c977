"""Where a checkout keeps the outputs of its stages and the files that relative paths refer to."""

from pathlib import Path

from cutrec.errors import StageError

PARAMS = Path("params.yaml")
"""The settings, in the root of the repository."""
DATA = Path("data")
"""The outputs of the stages, ``data/<stage>/...``, relative to the root of the repository."""
LOG = DATA / "download" / "log.parquet"
SPLIT = DATA / "split"
MODEL = DATA / "train" / "model.safetensors"
OLD_MODEL = "model.ckpt"
"""The name of a model's file in version 0.1, which is still read (`model_file`)."""
SETTINGS = DATA / "train" / "settings.yaml"
"""What the train stage decided for the keys that are ``auto``, and why."""
PER_USER = DATA / "evaluate" / "per_user.parquet"
BACKTEST = DATA / "backtest"
"""What ``cutrec backtest`` writes: a folder per window, and its tables, picture and page."""
COMPLETE = ".complete"
"""The file that a complete step of a backtest leaves in its folder, with a hash of all that decides its outputs."""
UPDATE = DATA / "update"
"""What ``cutrec update`` writes: the longer log, its split and the new model."""
STAGES = ("source", "download", "split", "train", "evaluate", "report")
"""Folders of ``data/`` whose content DVC manages. Nothing else may be written there."""


def model_file(place: Path) -> Path:
    """The file of a model, given that or its folder: the one of a training, or the ``out`` of `cutrec.Recommender.fit`.

    A folder without a model gives the path that the file would have.
    """
    if not place.is_dir():
        return place
    paths = [folder / name for folder in (place, place / "train") for name in (MODEL.name, OLD_MODEL)]
    return next((path for path in paths if path.is_file()), paths[0])


def existing_model(place: Path) -> Path:
    """The same, given as the option ``--model``.

    Raises:
        StageError: there is none.
    """
    if not (model := model_file(place)).is_file():
        raise StageError(f"--model: found no {model}, allowed: what the train stage wrote (dvc repro)")
    return model


def model_folder(place: Path, name: str = "--model") -> Path:
    """The folder of a model, given that, the folder above its ``train/``, or the model's file.

    Raises:
        StageError: there is no model; `name` says what the place was given as.
    """
    model = model_file(place)
    if not model.is_file() or model_file(model.parent) != model:
        found = f"the file {place}" if place.is_file() else f"no {place / MODEL.name}"
        allowed = f"a folder that save, fit or the train stage wrote, or {MODEL.name} in it"
        raise StageError(f"{name}: found {found}, allowed: {allowed}")
    return model.parent


def log_beside(model: Path) -> Path | None:
    """The log in the folder of a model, or the one in ``download/`` beside it; None if there is neither.

    In a model of ``cutrec promote`` it is a link to the log beside the model that was promoted.
    """
    logs = (model / LOG.name, model.parent / "download" / LOG.name)
    log = next((log for log in logs if log.is_file()), None)
    return log.resolve() if log is not None and log.is_symlink() else log


def checkout_root() -> Path | None:
    """The current folder, or the nearest one above it, that holds params.yaml or dvc.yaml; None without one."""
    here = Path.cwd()
    names = (PARAMS, "dvc.yaml")
    return next((folder for folder in (here, *here.parents) if any((folder / name).is_file() for name in names)), None)


def live_checkout() -> Path:
    """The root of the checkout that the user works in: the current directory, except in a queued experiment.

    A queued experiment runs in ``<checkout>/.dvc/tmp/exps/<copy>`` with its own copy of the code. Relative paths to
    logs, which git does not track, and checkpoints that must survive a kill belong to the checkout itself.
    """
    here = Path.cwd().resolve()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return here


def checkpoint_folder() -> Path:
    """Where interrupted trainings resume from, outside ``data/``: DVC deletes the outputs of a stage before it runs."""
    return live_checkout() / ".checkpoints"


def search_folder() -> Path:
    """Where ``cutrec tune`` keeps its searches, which go on at the next start."""
    return live_checkout() / ".tune"
