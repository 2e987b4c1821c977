"""Recommend items: the top k for every user of the log, or for the histories in a file.

    python -m cutrec.workflow.recommend [--k 10] [--histories FILE] [--refit] [--out FILE] ...

Every user of ``data/download/log.parquet`` gets a list from their whole history, whatever the split hid from training.
``--histories`` takes parquet or CSV with the ids of the log instead: a row an event, or, in parquet, a user with a list
of items.
``--refit`` first trains on the whole log (see `cutrec.workflow.refit`). Writes one parquet of user_id, item_id, rank,
score.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutrec import config
from cutrec.workflow import outputs as stage

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from rec_data.sequences.histories import Histories, Skipped
    from rec_models.encoders import Encoder

LOG = stage.DATA / "download" / "log.parquet"
MODEL = stage.DATA / "train" / "model.ckpt"
OUT = stage.DATA / "recommend" / "recommendations.parquet"
DESCRIPTION = """\
Recommend items: the top k for every user of the log, or for the histories in a file.

Every user of data/download/log.parquet gets a list from their whole history, whatever the split hid from training.
The file written is a parquet of user_id, item_id, rank, score, with the ids of the log."""
STAGES = ("source", "download", "split", "train", "evaluate", "report")
"""Folders of ``data/`` that DVC keeps: nothing else may be written there."""


@dataclass(frozen=True)
class Options:
    """The command line; the help texts of `parse` say what each is."""

    k: int = 10
    histories: str | None = None
    out: Path = OUT
    model: Path = MODEL
    refit: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_users: int | None = None
    keep_seen: bool = False
    user_column: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and params.yaml, recommend."""
    options = parse(arguments)
    point = config.load()
    recommend(point, options)


def parse(arguments: list[str] | None = None) -> Options:
    """The options of a command line.

    Raises:
        StageError: one line that names the option.
    """
    from argparse import ArgumentError, RawDescriptionHelpFormatter

    from jsonargparse import ArgumentParser

    usual = Options()
    parser = ArgumentParser(
        prog="python -m cutrec.workflow.recommend",
        description=DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("--k", type=_positive, default=usual.k, help=f"items a user (default: {usual.k})")
    parser.add_argument(
        "--histories", type=str | None, help="parquet or CSV: a row an event, or (parquet) a user with a list of items"
    )
    parser.add_argument("--out", type=Path, default=usual.out, help=f"the parquet to write (default: {OUT})")
    text = f"with its items.parquet beside it (default: {MODEL})"
    parser.add_argument("--model", type=Path, default=usual.model, help=text)
    parser.add_argument(
        "--refit", action="store_true", help="train on the whole log first; the model is kept in OUT.refit/"
    )
    text = "auto, the default: a GPU if any"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=usual.device, help=text)
    parser.add_argument("--batch-users", type=_positive, help="users at a time (default: evaluate.batch_users)")
    parser.add_argument("--keep-seen", action="store_true", help="recommend items of the history too")
    for name in ("user", "item", "timestamp"):
        text = f"column of --histories; by default download.columns.{name} of params.yaml"
        parser.add_argument(f"--{name}-column", type=str | None, help=text)
    try:
        return Options(**vars(parser.parse_args(arguments)))
    except ArgumentError as error:
        raise stage.StageError(f"{str(error).removeprefix('argument ')}; --help lists the options") from None


def _positive(value: str | int) -> int:
    """An option that is a number from 1 on; the parser passes its default too."""
    from argparse import ArgumentTypeError

    if not re.fullmatch(r"0*[1-9][0-9]*", str(value)):
        raise ArgumentTypeError(f"found {value}, allowed: 1 or more")
    return int(value)


def recommend(point: config.Config, options: Options) -> None:
    """Recommend and say what could not be used.

    Raises:
        StageError: there is no model, no log, no such device, ``out`` is a stage's, k is above the catalogue, columns
            are named of no file, or nobody has a history.
    """
    from rec_data.sequences.histories import read_histories
    from rec_models.inference import load

    device = choose_device(options.device)
    refuse_place(options.out)
    refuse_columns_of_nothing(options)
    stage.room_for_file("--out", options.out)
    if not options.model.is_file():
        raise stage.StageError(f"--model: found no {options.model}, allowed: what the train stage wrote (dvc repro)")
    if not LOG.is_file() and (options.refit or options.histories is None):
        raise stage.StageError(f"found no {LOG}, which the download stage writes (dvc repro)")
    model = options.model
    if options.refit:
        from cutrec.workflow.refit import refit

        model = refit(point, options.model, LOG, options.out.with_suffix(".refit"), device)
    encoder = load(model, device)
    names = catalogue(model, encoder.num_items)
    if options.k > encoder.num_items:
        raise stage.StageError(f"--k: found {options.k}, allowed: 1 to {encoder.num_items}, the size of the catalogue")
    found = read_histories(LOG, names) if options.histories is None else _from_file(point, options, names)
    for line in notes(found):
        print(f"note: {line}", file=sys.stderr)
    if len(found.store) == 0:
        raise stage.StageError("nobody has an item that the model knows, so there is nothing to recommend from")
    rows = write(encoder, found, names, point, options)
    print(f"{options.out}: {rows:,} recommendations for {len(found.store):,} users, on {device.type}")


def refuse_place(out: Path) -> None:
    """Refuse to write among the outputs of the pipeline.

    Raises:
        StageError: ``out`` is in the folder of a stage.
    """
    place = out.resolve()
    for name in STAGES:
        if place.is_relative_to((stage.DATA / name).resolve()):
            kept = stage.DATA / name
            raise stage.StageError(
                f"--out: found {out}, but {kept} is of the pipeline, allowed: {OUT.parent} or elsewhere"
            )


def refuse_columns_of_nothing(options: Options) -> None:
    """Columns are of a file of histories; those of the log are in params.yaml.

    Raises:
        StageError: columns without a file.
    """
    for name in ("user", "item", "timestamp"):
        if options.histories is None and getattr(options, f"{name}_column") is not None:
            raise stage.StageError(f"--{name}-column: it names a column of --histories, which is not given")


def choose_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        StageError: there is no GPU.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise stage.StageError("--device: found cuda, but torch finds no GPU here, allowed: cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def catalogue(model: Path, num_items: int) -> pa.Array:
    """The original ids of a model's items, by dense id: of ``items.parquet`` beside it.

    Raises:
        StageError: there is none, or it is of another model.
    """
    import pyarrow.parquet as pq

    path = model.parent / "items.parquet"
    if not path.is_file():
        raise stage.StageError(f"--model: found no {path}, which says what items {model} ranks; keep the two together")
    names = pq.read_table(path, columns=["original_id"])["original_id"].combine_chunks()
    if len(names) != num_items:
        raise stage.StageError(f"--model: {model} ranks {num_items} items, but {path} holds {len(names)}")
    return names


def _from_file(point: config.Config, options: Options, names: pa.Array) -> Histories:
    from rec_data.raw.history_files import write_history_log
    from rec_data.schema import Columns
    from rec_data.sequences.histories import read_histories

    assert options.histories is not None
    usual = point.download.columns
    columns = Columns(
        options.user_column or usual.user,
        options.item_column or usual.item,
        options.timestamp_column or usual.timestamp,
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        needs_times = options.timestamp_column is not None
        found = write_history_log(
            options.histories, log, root=stage.checkout(), columns=columns, needs_times=needs_times
        )
        if found.in_row_order:
            note = f"no column {columns.timestamp!r}: events of a user are taken in the order of rows"
            print(f"note: {note}", file=sys.stderr)
        if found.empty_users:
            print(f"note: users with an empty history get no list: {found.empty_users:,}", file=sys.stderr)
        return read_histories(log, names)


def notes(found: Histories) -> list[str]:
    """What could not be used, a line each."""
    lines = []
    if found.unknown_items.count:
        left = found.unknown_items
        line = f"unknown items are skipped: {left.count:,} in {left.events:,} events: {_examples(left)}"
        if any(isinstance(item, str) and re.fullmatch(r"-?\d+\.0*", item) for item in left.examples):
            line += "; ids of text files are compared as text: write 7 and not 7.0"
        lines.append(line)
    if found.empty_users.count:
        left = found.empty_users
        lines.append(f"users without any known item get no list: {left.count:,}: {_examples(left)}")
    return lines


def _examples(left: Skipped) -> str:
    more = ", ..." if left.count > len(left.examples) else ""
    return ", ".join(map(repr, left.examples)) + more


def write(encoder: Encoder, found: Histories, names: pa.Array, point: config.Config, options: Options) -> int:
    """Rank the catalogue for every history, batch by batch; returns the rows written.

    The file has another name until it is whole.
    """
    from cutrec.workflow.ranking import user_batches
    from cutrec.workflow.recommendations import RecommendationsWriter
    from rec_eval import top_k

    part = options.out.with_name(f"{options.out.name}.part")
    rows = 0
    batches = user_batches(
        encoder,
        found.store,
        batch_users=options.batch_users or point.evaluate.batch_users,
        filter_seen=not options.keep_seen,
        title="recommend",
    )
    try:
        with RecommendationsWriter(part, found.user_names, names) as writer:
            for batch in batches:
                seen: dict[str, Any] = {"seen_offsets": batch.seen_offsets, "seen_items": batch.seen_items}
                lists = top_k(batch.queries, batch.items, options.k, **seen)
                writer.write(found.store.user_ids[batch.start : batch.end].numpy(), lists)
                rows += int((lists.ids >= 0).sum())
        part.replace(options.out)
    finally:
        part.unlink(missing_ok=True)
    return rows


if __name__ == "__main__":
    stage.run(main)
