"""Train a model further on the events of new days, with the ids of its items unchanged."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cutrec.checksums import checksum, verified, write_checksums
from cutrec.config_point import Config
from cutrec.outputs import read_json, replaced_folder, unchanged, write_json
from cutrec.paths import LOG
from cutrec.workflow.fetch import fetch, read_remarks
from cutrec.workflow.train import train
from rec_data.splits.append import Appended, append_events
from rec_data.splits.clock import as_date
from rec_data.splits.update import split_update


class Updated(NamedTuple):
    """What an update did."""

    events: Appended
    new_items: int = 0
    """Items that the model did not know; they follow the others in its catalogue."""


def update(
    config: Config,
    model: Path,
    log: Path,
    out: Path,
    *,
    root: Path,
    checkpoints: Path,
    finish: Callable[[Path], None] = lambda _: None,
) -> Updated:
    """Train a model further on the events of ``config.dataset`` that are later than those of its log.

    Writes ``download/`` (the log with the new events), ``split/`` and ``train/`` (the new model). They take the place
    of what is in the folder as a whole, so that a killed update leaves it as it was, and the model may be in it.
    Without new events, the model and its log are copied bit for bit, or stay where they are.

    Args:
        config: how the events are read, and the settings of training. ``train.init_from`` is set here.
        model: the folder of the model.
        log: the log that the model was trained on, as the stage download wrote it.
        out: an existing folder for the results; what is in it is replaced.
        root: the folder that relative paths of ``config.dataset`` start from.
        checkpoints: see `cutrec.workflow.train.train`.
        finish: called with the folder of the new model before it is put in place.

    Raises:
        ConfigError: settings contradict each other or the model.
        DataError: the events cannot be read, or leave nothing to train or validate on.
        StageError: training failed, or another process replaced the model or its log meanwhile.
    """
    with ExitStack() as reading, tempfile.TemporaryDirectory() as temporary:
        reading.enter_context(unchanged(model, log))  # until the results are put in place
        longer = Path(temporary) / LOG.name
        found = _append(config, verified(log), longer, root)
        if not found.new and out.resolve() == model.resolve().parent:
            return Updated(found)
        with replaced_folder(out, keep=False) as folder, reading.pop_all():
            (folder / "download").mkdir()
            shutil.copyfile(longer if found.new else log, folder / "download" / LOG.name)
            write_json(folder / "download" / "summary.json", {"dataset": config.dataset, "rows_appended": found.new})
            write_checksums(folder / "download")
            new_items = 0
            if found.new:
                new_items = _train(config, model, folder, found, checkpoints)
            else:
                shutil.copytree(model, folder / "train", ignore=shutil.ignore_patterns(LOG.name))
            finish(folder / "train")
    return Updated(found, new_items)


def _append(config: Config, log: Path, longer: Path, root: Path) -> Appended:
    """Read the events, write the longer log if some are new, and say what is left out."""
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.parquet"
        read = fetch(config, events, root=root)
        found = append_events(log, events, longer)
    for line in read_remarks(config, read):
        print(f"note: {line}", file=sys.stderr)
    if found.earlier:
        skipped = f"{found.earlier:,} of {found.earlier + found.new:,} events are not after {as_date(found.end)}"
        late = f"; the log lacks {found.late:,} of them, which training again would use" if found.late else ""
        print(f"note: {skipped}, the latest event of the model's log: they are skipped{late}", file=sys.stderr)
    return found


def _train(config: Config, model: Path, folder: Path, found: Appended, checkpoints: Path) -> int:
    """Split the log in ``download/`` of a folder and train in ``train/``; returns the number of new items."""
    log, split = folder / "download" / LOG.name, folder / "split"
    split.mkdir()
    write_update_split(config, log, model / "items.parquet", split, new_from=found.end + 1)
    config = replace(config, train=replace(config.train, init_from=str(model.resolve())))
    train(config, split, folder / "train", checkpoints=checkpoints)
    return int(read_json(split / "summary.json")["new_items"])


def write_update_split(config: Config, log: Path, catalogue: Path, split: Path, *, new_from: int) -> None:
    """`rec_data.splits.update.split_update` with the settings of a point, and checksums.

    Raises:
        DataError: no new event is left to train or validate on.
    """
    about = split_update(
        log,
        catalogue,
        split,
        config.split,
        new_from=new_from,
        seed=config.seed,
        tie_seed=config.download.tie_seed(config.seed),
    )
    write_json(split / "summary.json", about | {"log_sha256": checksum(log)})
    write_checksums(split)
