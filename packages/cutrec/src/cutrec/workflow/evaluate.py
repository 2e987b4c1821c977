"""Rank the whole catalogue for every test user, by the model and by popularity, and measure both rankings."""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.tensorboard import SummaryWriter

from cutrec.checksums import read_output, verified, write_checksums
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, unchanged, write_csv, write_json
from cutrec.reporting.details import write_details
from cutrec.stores import read_stores
from cutrec.workflow.item_names import item_groups
from cutrec.workflow.measured import Measured
from cutrec.workflow.ranking import load_encoder
from cutrec.workflow.recommendations import append_lists, list_writer, ranked_batches
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_eval import Evaluation, first_lists, write_evaluation
from rec_models.encoders import Encoder
from rec_models.training import memory
from rec_models.training.devices import cpu_name


def evaluate(config: Config, split: Path, model: Path, out: Path, *, root: Path | None = None) -> None:
    """Rank, measure and write the results into the folder `out`.

    Diversity needs the groups in the file that ``report.item_names`` names, whose relative path starts from `root`;
    with None it is left out.

    Writes ``metrics.json`` (the summary at 10), ``metrics_at_k.csv`` (every metric at every k), ``details/`` (see
    `cutrec.reporting.details`), ``per_user.parquet``, ``recommendations.parquet`` (ids as in the raw log) and
    ``tensorboard/``. A synthetic log has no accuracy, so only times and memory are written for it.

    A split in parts is ranked part by part. All results are in order of users, as those of one part, except the rows of
    ``recommendations.parquet``, which are in order of parts.

    Raises:
        DataError: ``report.item_names`` cannot be read.
        StageError: a missing or damaged file, no test users, only one user to count items in, or another process
            replaced the split while it was read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with atomic_folder(out) as folder, unchanged(split):
        encoder, items = load_encoder(verified(model), verified(split / "items.parquet"), device)
        users = read_output(read_ids, split / "users.parquet")
        hashes = {"items": items.hash, "users": users.hash}
        tested = np.concatenate([store.user_ids.numpy().copy() for store in read_stores(split, "test", hashes=hashes)])
        if not tested.size:
            raise StageError(f"{split}: found no test users, allowed: at least 1 (of a larger log)")
        order = np.argsort(tested, kind="stable")  # that of one part
        user_names = users.names.take(pa.array(tested[order]))
        (folder / "details").mkdir()
        measured = None
        if not config.dataset.startswith("twin:"):
            groups = None if root is None else item_groups(config, items.names.to_pylist(), root=root)
            measured = Measured(config, split, order, users.names, items, hashes, groups)
        costs = _rank(
            config, encoder, read_stores(split, "test", hashes=hashes), users.names, items.names, folder, measured
        )
        num_users = first_lists(tested[order]).size
        several = {} if num_users == len(tested) else {"targets": len(tested)}
        costs = {"users": num_users, **several, **costs, "reference": config.evaluate.reference}
        results: dict[str, Evaluation] = {}
        if measured is None:
            pq.write_table(pa.table({"user_id": user_names}), folder / "per_user.parquet")
        else:
            rankings = measured.rankings(user_names.to_numpy(zero_copy_only=False))
            results = rankings.results
            write_evaluation(results["model"], folder / "per_user.parquet")
            write_details(rankings, folder / "details")
            costs = {**_summary(results["model"]), "popularity": _summary(results["popularity"]), **costs}
        write_json(folder / "metrics.json", costs)
        write_table(folder / "metrics_at_k.csv", results, config.evaluate.k)
        _write_tensorboard(folder / "tensorboard", results)
        write_checksums(folder)


def _rank(
    config: Config,
    encoder: Encoder,
    stores: Iterable[SequenceStore],
    users: pa.Array,
    items: pa.Array,
    out: Path,
    measured: Measured | None,
) -> dict[str, object]:
    """Write the lists of the model, measure them, write ``details/memory.json``; return what the lists cost."""
    device, how = encoder.item_table.device, config.evaluate
    memory.reset_peak(device)
    seconds, number, peak = 0.0, 0, 0.0
    with list_writer(out / "recommendations.parquet", users.type, items.type) as writer:
        for store in filter(len, stores):
            started = time.perf_counter()
            ranked = ranked_batches(
                encoder, store, max(how.k), batch_users=how.batch_users, filter_seen=how.filter_seen, title="rank"
            )
            recommended = np.empty((len(store), max(how.k)), dtype=np.int32)  # [u, K]
            start = 0
            for ids in append_lists(writer, ranked, users, items):
                recommended[start : start + len(ids)] = ids
                start += len(ids)
            seconds, number = seconds + time.perf_counter() - started, number + len(store)
            peak = max(peak, memory.peak_gib(device))
            if measured is not None:
                measured.add(store, recommended)
    write_json(out / "details" / "memory.json", {"peak_gib": round(peak, 3), "kind": memory.peak_kind(device)})
    return {
        "rank_seconds": round(seconds, 3),
        "users_per_second": round(number / seconds, 1),  # lists, if some users have several
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    }


def _summary(result: Evaluation) -> dict[str, float]:
    return {name: round(value, 6) for name, value in result.summary().items() if name.endswith("@10")}


def write_table(path: Path, results: dict[str, Evaluation], ks: tuple[int, ...]) -> None:
    """Write one row per k and one column per metric of the model and of popularity, for ``dvc plots``."""
    values = {
        (f"popularity_{row.metric}" if ranking == "popularity" else row.metric, row.k): row.value
        for ranking, result in results.items()
        for row in result.rows()
    }
    names = list(dict.fromkeys(name for name, _ in values))
    rows = ([k, *(round(values[name, k], 6) if (name, k) in values else "" for name in names)] for k in sorted(ks))
    write_csv(path, ["k", *names], rows)


def _write_tensorboard(folder: Path, results: dict[str, Evaluation]) -> None:
    """Write the metrics as scalars over k: TensorBoard's step is k."""
    for name, result in results.items():
        with SummaryWriter(str(folder / name)) as writer:
            for row in result.rows():
                writer.add_scalar(f"at_k/{row.metric}", row.value, row.k)
    folder.mkdir(exist_ok=True)
