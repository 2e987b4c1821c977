"""Recommend items: the top k for every user of the log, or for the histories in a file.

Every user of the log gets a list that follows their whole history, including the events that the split held out from
training. The log is the one beside the model: ``data/download/log.parquet`` for ``data/train``, and
``data/update/download/log.parquet`` for ``data/update``. Without one there, it is that of the pipeline. Where there is
no log, or not that of ``split_folder``, the histories are those of the split, each up to its last target. The output is
a parquet or CSV of user_id, item_id, rank, score, with the ids of the log.

``--part i/n`` ranks for one of n parts of the users, in bounded memory, and writes the same lists as several parquet
files into a folder. Parts may run at the same time; one that was killed goes on at the next call. A log whose split is
in parts (split.memory) is never read at once: without ``--part`` all its users are ranked in this way too.

Examples:
    uv run cutrec recommend --k 20 --out lists.csv
    uv run cutrec recommend --user 4711
    uv run cutrec recommend --part 1/8 --out lists
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, local_path, positive_int, whole_from
from cutrec.checksums import checksum, verified
from cutrec.config import from_mapping, load, read_yaml
from cutrec.console import prepare_output_file, prepare_output_folder
from cutrec.errors import StageError
from cutrec.nested import changed, flatten, parse_overrides
from cutrec.outputs import atomic_file, unchanged
from cutrec.paths import DATA, LOG, MODEL, PARAMS, SPLIT, checkpoint_folder, existing_model, live_checkout, log_beside

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from cutrec.workflow.history_sources import HistorySource
    from cutrec.workflow.scoring import Scored
    from rec_data.config import Download
    from rec_data.sequences.parts import Part
    from rec_models.encoders import Encoder

OUT = DATA / "recommend" / "recommendations.parquet"
PARTS = DATA / "recommend" / "parts"
MOST_PARTS = 100_000
SUFFIXES = (".parquet", ".csv")
COLUMNS = ("user", "item", "timestamp")
KEYS = {
    "timestamp": "download.columns.timestamp",
    "rating": "download.columns.rating",
    "event": "download.events.column",
}
"""What names a column that a file of histories may lack, unless it is named for this file."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--k", type=positive_int, default=10, help="items per user (default: 10)")
    text = "parquet or CSV with one event per row; parquet may also hold one user per row with a list of items"
    parser.add_argument("--histories", type=local_path, help=text)
    parser.add_argument("--user", action="append", help="a user of the log; may be repeated (default: all users)")
    text = "a part of the users, such as 1/8: users whose id has a CRC-32 that is 0 modulo 8"
    parser.add_argument("--part", type=part_of_users, metavar="I/N", help=text)
    text = "with --part: events of the log in memory at a time (default: 5000000)"
    parser.add_argument("--chunk-events", type=whole_from(1, 10**9), help=text)
    text = (
        f"the .parquet or .csv to write, or - to print (default: {OUT}; lists of --user are printed); with --part the "
    )
    text += f"folder (default: {PARTS})"
    parser.add_argument("--out", type=local_file, help=text)
    text = f"the folder of a model, or its file with items.parquet beside it (default: {MODEL.parent})"
    parser.add_argument("--model", type=local_file, default=MODEL.parent, help=text)
    text = "train on the whole log first; the model is kept in OUT.refit/"
    parser.add_argument("--refit", action="store_true", help=text)
    text = "auto (the default) takes a GPU if there is one"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    text = "users per batch (default: evaluate.batch_users)"
    parser.add_argument("--batch-users", type=positive_int, help=text)
    parser.add_argument("--keep-seen", action="store_true", help="recommend items of the history too")
    for name in COLUMNS:
        text = f"column of --histories (default: download.columns.{name} of params.yaml)"
        parser.add_argument(f"--{name}-column", type=str | None, help=text)
    text = "change of params.yaml for reading --histories: download.format.encoding=latin-1, ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", metavar="KEY=VALUE", help=text)


def part_of_users(text: str | tuple[int, int]) -> tuple[int, int]:
    """The type of ``--part``: I/N with 1 <= I <= N <= 100,000."""
    if isinstance(text, tuple):  # checked a second time
        return text
    number, _, of = text.partition("/")
    if not re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", text, re.ASCII) or not 1 <= int(number) <= int(of) <= MOST_PARTS:
        raise ArgumentTypeError(
            f"found {text}, allowed: I/N with I from 1 to N, such as 1/8, and N up to {MOST_PARTS:,}"
        )
    return int(number), int(of)


def run(options: Namespace) -> None:
    """Check the options, read params.yaml, recommend and say what could not be used."""
    for name in COLUMNS:
        if options[f"{name}_column"] is not None and options.histories is None:
            raise StageError(f"--{name}-column: it names a column of --histories, which is not given")
    if options.changes and options.histories is None:
        raise StageError("-S: it changes how --histories are read, which are not given")
    if options.user and options.histories is not None:
        raise StageError("--user: it names users of the log; with --histories, give a file of these users alone")
    if options.part is not None:
        run_parts(options)
        return
    config = load()

    from cutrec.stores import parts_of

    if (parts := parts_of(Path(config.split_folder))) > 1 and of_whole_log(options):
        print(f"note: the split is in {parts} parts, so lists are written in parts too (--part 1/1)", file=sys.stderr)
        run_parts(options)
        return
    if options.chunk_events is not None:
        raise StageError("--chunk-events: it is about --part, which is not given; --part 1/1 takes all users")
    printed = bool(options.user) if options.out is None else options.out.name == "-"
    out = OUT if printed or options.out is None else options.out  # a refit is kept beside it
    if out.suffix not in SUFFIXES:
        raise StageError(f"--out: found {out}, allowed: a file whose name ends in {' or '.join(SUFFIXES)}, or -")

    from cutrec.workflow import recommend
    from cutrec.workflow.history_sources import without_log

    device = recommend.choose_device(options.device)
    if options.refit or not printed:
        prepare_output_file("--out", out)
    model = existing_model(options.model)
    log = LOG if options.refit else log_of(model)
    split = Path(config.split_folder)
    if options.refit:
        verified(log)
        from cutrec.workflow.refit import refit

        folder = out.with_suffix(".refit")
        model = refit(config, model, log, SPLIT, folder, checkpoints=checkpoint_folder(), device=device)
    encoder, item_names = load_model(options, model, device)
    of_the_log = options.histories is None and not without_log(log, split, encoder.log)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lists.csv" if printed else out
        read = [log] if of_the_log else [split] if options.histories is None else []
        with atomic_file(out) as part, unchanged(*read):
            if of_the_log:
                tie_seed = config.download.tie_seed(config.seed)
                histories, notes = recommend.read_log(
                    log, item_names, model=model, trained_with=encoder.log, tie_seed=tie_seed, users=options.user
                )
            elif options.histories is None:
                histories, notes = recommend.read_split(split, item_names, log=log, users=options.user)
            else:
                settings, named = history_settings(options)
                histories, notes = recommend.read_file(
                    options.histories,
                    item_names,
                    root=live_checkout(),
                    named=named,
                    settings=settings,
                    tie_seed=settings.tie_seed(config.seed),
                )
            for note in [*notes, *recommend.unusable(histories.unknown_items, histories.empty_users)]:
                print(f"note: {note}", file=sys.stderr)
            rows = recommend.recommend(
                encoder,
                histories,
                item_names,
                part,
                k=options.k,
                batch_users=options.batch_users or config.evaluate.batch_users,
                keep_seen=options.keep_seen,
                as_csv=out.suffix == ".csv",
            )
        if printed:
            with out.open(encoding="utf-8") as lists:
                shutil.copyfileobj(lists, sys.stdout)
        else:
            print(f"{out}: {rows:,} recommendations for {len(histories.store):,} users, on {device.type}")


def of_whole_log(options: Namespace) -> bool:
    """Whether lists are for all users of the log of the pipeline, by a model as it is."""
    some = options.user or options.refit or options.histories is not None
    return not some and log_of(existing_model(options.model)).resolve() == LOG.resolve()


def log_of(model: Path) -> Path:
    """The log beside a model, or that of the pipeline."""
    return log_beside(model.parent) or LOG


def load_model(options: Namespace, model: Path, device: torch.device) -> tuple[Encoder, pa.Array]:
    """The model and the ids of its items, with ``--k`` checked against their number."""
    from cutrec.workflow import recommend

    encoder, item_names = recommend.load_model(model, device)
    if options.k > len(item_names):
        raise StageError(f"--k: found {options.k}, allowed: 1 to {len(item_names)}, the size of the catalogue")
    return encoder, item_names


def run_parts(options: Namespace) -> None:
    """Recommend for a part of the users, or one part after another for all, into a folder."""
    out = PARTS if options.out is None else options.out
    if options.user or options.refit:
        cure = "a model of --refit is used with --model OUT.refit"
        raise StageError(f"--part: found it with --user or --refit, allowed: all users and a trained model; {cure}")
    if out.suffix in SUFFIXES or out.name == "-" or out.is_file():
        why = "for a split in parts" if options.part is None else "with --part"
        raise StageError(f"--out: found {out}, allowed {why}: a folder, which gets several parquet files")
    config = load()

    from cutrec.workflow import recommend
    from cutrec.workflow.history_sources import LogSource, SplitSource, without_log
    from cutrec.workflow.scoring import CHUNK_EVENTS, parts_for, score_part
    from rec_data.sequences.parts import Part

    prepare_output_folder("--out", out)
    device, model = recommend.choose_device(options.device), existing_model(options.model)
    encoder, item_names = load_model(options, model, device)
    with tempfile.TemporaryDirectory() as folder:
        log, tie_seed = log_of(model), config.download.tie_seed(config.seed)
        split = Path(config.split_folder)
        source: HistorySource
        if options.histories is None and without_log(log, split, encoder.log):
            source = SplitSource(split, item_names)
            found, tie_seed, notes = source.checksum(), None, [recommend.no_log(log, split)]
        elif options.histories is None:
            found = checksum(verified(log))
            notes = recommend.notes_on_log(log, found, model=model, trained_with=encoder.log)
            source = LogSource(log, item_names, tie_seed)
        else:
            settings, named = history_settings(options)
            log, tie_seed = Path(folder) / "log.parquet", settings.tie_seed(config.seed)
            notes = recommend.write_file(options.histories, log, root=live_checkout(), named=named, settings=settings)
            found = checksum(log)
            source = LogSource(log, item_names, tie_seed)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        events = options.chunk_events or CHUNK_EVENTS
        parts = [Part(*options.part)] if options.part else parts_for(source, events)
        job = {"model": checksum(model), "log": found, "k": options.k, "keep_seen": options.keep_seen, "ties": tie_seed}
        for part in parts:
            done = score_part(
                encoder,
                item_names,
                source,
                out,
                part,
                job,
                k=options.k,
                batch_users=options.batch_users or config.evaluate.batch_users,
                keep_seen=options.keep_seen,
                chunk_events=events,
            )
            print_done(done, out, part, device)


def print_done(done: Scored, out: Path, part: Part, device: torch.device) -> None:
    """What was written of a part, and what could not be used."""
    from cutrec.workflow.recommend import unusable

    for note in unusable(done.unknown_items, done.empty_users):
        print(f"note: {note}", file=sys.stderr)
    if done.users == 0:
        print(f"note: part {part.number} of {part.of} holds no user with a list", file=sys.stderr)
    there = f" ({done.chunks - done.ranked} of {done.chunks} chunks were there)" if done.ranked < done.chunks else ""
    print(f"{out / part.name}: {done.rows:,} recommendations for {done.users:,} users{there}, on {device.type}")
    if done.all_complete:
        print(f"{out}: all {part.of} parts are complete")


def history_settings(options: Namespace) -> tuple[Download, set[str]]:
    """How ``--histories`` is read: as the log, except for ``-S`` and the columns that are named.

    Returns:
        The settings, and which columns the user named besides users and items, as `write_history_log` takes them.
    """
    from pydantic import ValidationError

    from rec_data.config import Columns

    changes, values = options.changes or [], read_yaml(PARAMS)
    given = {name: options[f"{name}_column"] for name in COLUMNS if options[f"{name}_column"] is not None}
    if parse_overrides(changes).get("download", {}).get("format", {}).get("header") is False:
        changes = [*changes, *(f"download.columns.{name}={place}" for name, place in given.items())]  # positions
        given = {}
    settings = from_mapping(changed(values, changes, ("download",))).download
    names, text_format = vars(settings.columns) | given, settings.format
    if given and text_format.header is False:  # the log has positions, but this file has names
        names, text_format = {"timestamp": None} | given, replace(text_format, header="auto")
    try:
        columns = Columns(**names)
    except ValidationError:
        used = ", ".join(f"--{name}-column" for name in COLUMNS)
        found = ", ".join(str(name) for name in names.values() if name is not None)
        raise StageError(f"{used}: found {found}, allowed: different names") from None
    keys = {key: found for key, found in flatten(parse_overrides(changes)).items() if found is not None}
    named = {column for column, key in KEYS.items() if key in keys} | ({"timestamp"} & set(given))
    return replace(settings, columns=columns, format=text_format), named
