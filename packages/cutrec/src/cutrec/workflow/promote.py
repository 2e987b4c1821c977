"""Whether a new model takes the place of the running one, and the switch, which is one rename.

Both models are tested on the same users and targets: the test of the new model's split. That of ``cutrec update`` has
none: then its validation users, whose new events neither model was trained on. What the running model does not know, it
cannot recommend, and a target that it does not know is a miss.

The running model is a symbolic link to a folder of `versions` beside it. A reader that opens the link finds one model
or the other, complete; a reader that has opened a folder can go on, because the last versions are kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cutrec.checksums import checksum, read_output, verified, verify_folder
from cutrec.errors import StageError
from cutrec.outputs import unchanged
from cutrec.paths import LOG, log_beside
from cutrec.stores import read_stores
from cutrec.workflow.ranking import load_encoder
from cutrec.workflow.recommend import load_model
from cutrec.workflow.recommendations import ranked_batches
from rec_data.arrays import Int64s
from rec_data.ids import read_ids
from rec_data.locks import locked
from rec_data.sequences.store import SequenceStore
from rec_eval import Comparison, Evaluation, compare, evaluate, join_evaluations

if TYPE_CHECKING:
    from cutrec.config_point import Config
    from rec_models.encoders import Encoder

PARTS = ("test", "validation")
"""Of a split, the users that both models are tested on: the first one that is there."""
KEPT = 3
"""Versions that are kept, the running one among them."""


class Decision(NamedTuple):
    """Whether the new model takes the place of the running one, and why."""

    promote: bool
    reason: str
    compared: Comparison | None = None
    """Second minus first: the new model minus the running one; None if there was nothing to compare."""
    tested_on: str | None = None
    """The part of the split: ``test``, or ``validation`` where there is none."""


def decide(
    config: Config, new: Path, running: Path, split: Path, device: torch.device, *, metric: str, k: int, margin: float
) -> Decision:
    """Test both models on the test users of a split, and compare them user by user.

    Args:
        config: its section ``evaluate`` says how lists are made.
        new: the file of the new model, which was trained on the split.
        running: the file of the running model, with its ``items.parquet``.
        split: the folder that the stage split wrote.
        device: where to rank.
        metric: such as ``ndcg``.
        k: length of the lists.
        margin: the share of the metric of the running model that the new one may lose.

    Raises:
        StageError: a file is missing or damaged, or the models know no item of each other's.
    """
    encoder, items = load_encoder(verified(new), verified(split / "items.parquet"), device)
    users = read_output(read_ids, split / "users.parquet")
    hashes = {"items": items.hash, "users": users.hash}
    there = {path.stem for path in (split / "sequences").glob("*")}
    part = next(name for name in PARTS if name == PARTS[-1] or name in there)
    models = {"running": load_model(running, device), "new": (encoder, items.names)}
    found: dict[str, list[Evaluation]] = {name: [] for name in models}
    tested = [np.empty(0, np.int32)]
    for store in filter(len, read_stores(split, part, hashes=hashes)):
        tested.append(store.user_ids.numpy().copy())
        for name, (model, own) in models.items():
            found[name].append(_test(config, model, own, store, items.names, k))
    ids = np.concatenate(tested)
    if not ids.size:
        raise StageError(f"{split}: found no {part} users, allowed: at least 1 (of a larger log)")
    order = np.argsort(ids, kind="stable")
    names = users.names.take(pa.array(ids[order])).to_numpy(zero_copy_only=False)
    results = {name: join_evaluations(parts, order, {}, user_ids=names) for name, parts in found.items()}
    compared = compare(results["running"], results["new"], f"{metric}@{k}", name_a="running", name_b="new")
    least = -margin * compared.mean_a
    reason = f"{compared.metric} changes by {compared.difference:+.4f}, allowed: {least:+.4f} or more"
    if not (compared.low > least or compared.high < least):
        reason += "; the test users are too few to tell the difference from that"
    return Decision(compared.difference >= least, reason, compared, part)


def _test(config: Config, encoder: Encoder, own: pa.Array, store: SequenceStore, items: pa.Array, k: int) -> Evaluation:
    """Accuracy of a model with a catalogue of its own on the test users of a split."""
    assert store.targets is not None
    text = pa.large_string()
    to_own = pc.fill_null(pc.index_in(items.cast(text), value_set=own.cast(text)), -1).to_numpy(zero_copy_only=False)
    if not (to_own >= 0).any():
        raise StageError("RUNNING: found no item that the new model knows too, allowed: a model of the same catalogue")
    histories = to_own[store.items.numpy()]
    rows = np.repeat(np.arange(len(store)), store.lengths.numpy())[histories >= 0]
    lengths = np.bincount(rows, minlength=len(store))
    kept = np.flatnonzero(lengths)
    known = SequenceStore(
        items=torch.from_numpy(histories[histories >= 0].astype(np.int32)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[kept])])),
        user_ids=torch.from_numpy(kept.astype(np.int32)),
    )
    back = np.arange(len(own)) + len(items)  # items that the split lacks get ids of their own
    back[to_own[to_own >= 0]] = np.flatnonzero(to_own >= 0)
    lists: Int64s = np.full((len(store), k), -1)
    how = config.evaluate
    batches = ranked_batches(encoder, known, k, batch_users=how.batch_users, filter_seen=how.filter_seen, title="test")
    for places, found in batches:
        ids = found.ids.cpu().numpy()
        lists[places.numpy()] = np.where(ids >= 0, back[ids], -1)
    return evaluate(lists, store.targets.numpy(), [k])


def versions(running: Path) -> Path:
    """The folder of the versions of a running model."""
    return running.with_name(f"{running.name}.versions")


def switch(model: Path, running: Path) -> Path:
    """Copy the folder of a model into `versions` and let the link `running` point to it; return the copy.

    A log that is not in that folder but beside it is not copied: the version holds a link to it, so that lists follow
    the events of the day on which they are made. Older versions than the last `KEPT` are removed.

    Raises:
        StageError: a file of the model is damaged or was replaced meanwhile, or `running` is not a link.
    """
    verify_folder(model.parent)
    place = versions(running)
    with locked(running):
        refuse_other(running)
        place.mkdir(parents=True, exist_ok=True)
        copy = place / checksum(model)[:12]
        fresh = place / f".tmp-{copy.name}"
        if not copy.is_dir():
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            with unchanged(model.parent):
                for path in model.parent.iterdir():
                    if path.is_file():
                        shutil.copyfile(path, fresh / path.name)
                if (log := log_beside(model.parent)) is not None and log.parent != model.parent:
                    (fresh / LOG.name).symlink_to(log.resolve())  # as it will be when it is read
            fresh.rename(copy)
        os.utime(copy)
        link = place / ".tmp-link"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(place.name) / copy.name)
        link.replace(running)
        for old in sorted((path for path in place.glob("[!.]*") if path != copy), key=os.path.getmtime)[: -KEPT + 1]:
            shutil.rmtree(old)
    return copy


def refuse_other(running: Path) -> None:
    """Refuse a path that is neither free nor a link.

    Raises:
        StageError: naming it.
    """
    if running.exists() and not running.is_symlink():
        raise StageError(
            f"RUNNING: found {running}, which is no link, allowed: a path that does not exist yet, or a link of this "
            f"command (mv {running} {running}.old frees the path)"
        )
