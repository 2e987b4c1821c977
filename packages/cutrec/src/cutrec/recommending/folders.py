"""The folders of a model: trained into, updated, found, and copied."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cutrec.checksums import verify_folder, write_checksums
from cutrec.config import read_yaml
from cutrec.config_point import Config
from cutrec.console import prepare_output_folder
from cutrec.decide import with_decisions
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, identity, read_json, unchanged, write_json
from cutrec.paths import LOG, MODEL, OLD_MODEL, SETTINGS, live_checkout, log_beside, model_file, model_folder
from cutrec.recommending.log_form import FORM, LogForm
from cutrec.reporting.model_card import CARD, model_card
from cutrec.reporting.run_outputs import read_csv
from rec_models.training.checkpoint import ModelCheckpoint

if TYPE_CHECKING:
    from cutrec.workflow.update import Updated

Kept = TypeVar("Kept")


@contextmanager
def kept_with(out: str | Path | None) -> Iterator[tuple[Path, Callable[[Kept], Kept]]]:
    """Yield a folder for results, and what binds it to the object that is returned.

    Without `out` it is a temporary folder, which is removed together with that object, or if the block fails.
    """
    if out is not None:
        yield Path(out), lambda found: found
        return
    folder = Path(tempfile.mkdtemp(prefix="cutrec-"))

    def keep(found: Kept) -> Kept:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
        return found

    try:
        yield folder, keep
    except BaseException:
        shutil.rmtree(folder)
        raise


def run_stages(log: Any, form: LogForm, folder: Path) -> None:
    """Read, split and train on a log, into ``download/``, ``split/`` and ``train/`` of a folder.

    Raises:
        ValueError: the log or a setting is wrong, or training failed.
    """
    from cutrec.workflow.fetch import download
    from cutrec.workflow.item_names import item_titles
    from cutrec.workflow.split import split
    from cutrec.workflow.train import train

    for name in ("download", "split", "train"):
        prepare_output_folder("out", folder / name)
    item_titles(form.config, [], root=Path.cwd())  # a wrong file is refused before anything is trained
    with form.as_source(log) as source:
        download(source, folder / "download", root=Path.cwd())
    split(form.config, folder / "download" / LOG.name, folder / "split")
    train(form.config, folder / "split", folder / "train", checkpoints=folder / ".checkpoints")
    write_json(folder / "train" / FORM, form.as_json())
    write_checksums(folder / "train")


def run_update(
    log: Any, form: LogForm, later: LogForm, model: Path, out: Path, checkpoints: Path, *, prefix: str = ""
) -> Updated:
    """Update a model by the events of a log, into ``download/``, ``split/`` and ``train/`` of a folder.

    Args:
        log: the events, a frame or what ``dataset`` may be.
        form: of the model's log.
        later: of the events, from `LogForm.of_new_days`.
        model: the folder of the model.
        out: a new folder, an empty one, or one that `run_stages` or an update wrote, which is replaced.
        checkpoints: where an interrupted training resumes from.
        prefix: what errors put before the names ``model`` and ``out``: ``--`` if these are options.

    Raises:
        ValueError: `out` holds other files, there is no log beside the model, the events or a setting are wrong, or
            training failed.
    """
    from cutrec.workflow.update import update

    def finish(folder: Path) -> None:
        write_json(folder / FORM, form.as_json())
        write_checksums(folder)

    if (old := log_beside(model)) is None:
        cure = "data/train of a checkout, the out of fit or of an update, or save(folder, histories=True)"
        raise StageError(f"{prefix}model: found no log beside {model}, allowed: {cure}")
    prepare_output_folder(f"{prefix}out", out)
    if any(not path.name.startswith(".") for path in out.iterdir()) and not (out / "train" / FORM).is_file():
        allowed = "a new folder, or one that an update has written"
        raise StageError(f"{prefix}out: found {out} with other files, allowed: {allowed}")
    with later.as_source(log) as source:
        return update(source, model, old, out, root=live_checkout(), checkpoints=checkpoints, finish=finish)


def of_model(place: Path, name: str = "folder") -> Path:
    """The folder of a model, as `cutrec.paths.model_folder` finds it, whose files are as they were written.

    Raises:
        StageError: there is no model, a file is damaged, or another process replaced one meanwhile.
    """
    folder = model_folder(place, name)
    with unchanged(folder):
        verify_folder(folder)
    return folder


def card(model: Path, config: Config, split: Path, details: Path) -> str:
    """The card of a model with the metrics of an evaluation, given the folders of the three."""
    if (settings := model / SETTINGS.name).is_file():
        config = with_decisions(config, read_yaml(settings))
    intervals = read_csv(details / "intervals.csv")
    return model_card(config, read_json(split / "summary.json"), read_json(model / "metrics.json"), intervals=intervals)


def save(source: Path, files: object, form: LogForm, target: Path, *, log: Path | None, card: str | None) -> None:
    """Copy a model, and a log if there is one, into a folder that is new, empty, or holds a model that was saved there.

    A model of version 0.1 is written as this version writes it. `files` is what `cutrec.outputs.identity` said of the
    source when the model was loaded. `card` takes the place of the model card in the source.

    Raises:
        StageError: the folder holds other files, or another process has written the source since.
    """
    prepare_output_folder("folder", target)
    if target.resolve() == source.resolve():
        raise StageError(f"folder: found {target}, which this model was loaded from, allowed: another folder")
    if target.is_dir() and any(target.iterdir()) and not (target / FORM).is_file():
        raise StageError(f"folder: found {target} with other files, allowed: a new one, or one that save has written")
    with atomic_folder(target) as part:
        for path in source.iterdir():
            if path.is_file() and path.name not in (LOG.name, OLD_MODEL):
                shutil.copyfile(path, part / path.name)
        if (model := model_file(source)).name == OLD_MODEL:
            ModelCheckpoint.read(model).save(part / MODEL.name)
        if card is not None:
            (part / CARD).write_text(card, encoding="utf-8")
        if identity(source) != files:
            raise StageError(f"{source}: found that it was written since it was loaded; load it again")
        if log is not None:
            shutil.copyfile(log, part / LOG.name)
        else:
            (target / LOG.name).unlink(missing_ok=True)  # of a model that was saved there before
        (target / OLD_MODEL).unlink(missing_ok=True)
        write_json(part / FORM, form.as_json())
        write_checksums(part)
