"""Rank the whole catalogue for every test user, by the model and by popularity, and measure both rankings."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.tensorboard import SummaryWriter

from cutrec.checksums import read_output, verified, write_checksums
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, unchanged, write_csv, write_json
from cutrec.reporting.details import Rankings, write_details
from cutrec.workflow.item_names import item_groups
from cutrec.workflow.ranking import load_encoder
from cutrec.workflow.recommendations import ranked_batches, write_recommendations
from rec_data import arrays
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_data.splits.recency import days_since_last
from rec_eval import Baseline, Evaluation, LogCounts, popularity_top_k, write_evaluation
from rec_eval import evaluate as compute_metrics
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
        store = read_output(SequenceStore.open, split / "sequences" / "test.arrow", hashes=hashes)
        if len(store) == 0:
            raise StageError(f"{split}: found no test users, allowed: at least 1 (of a larger log)")
        (folder / "details").mkdir()
        recommended, costs = _rank(config, encoder, store, users.names, items.names, folder)
        metrics: dict[str, object] = {**costs, "reference": config.evaluate.reference}
        user_names = users.names.take(pa.array(store.user_ids.numpy()))
        results: dict[str, Evaluation] = {}
        if config.dataset.startswith("twin:"):
            pq.write_table(pa.table({"user_id": user_names}), folder / "per_user.parquet")
        else:
            train = read_output(SequenceStore.open, split / "sequences" / "train.arrow", hashes=hashes)
            counts = arrays.count(train.items.numpy(), len(items.names))  # [V]
            reference = reference_log(config, split, len(counts), hashes)
            verified(split / "summary.json")
            days = read_output(days_since_last, verified(split / "test.parquet"))
            groups = None if root is None else item_groups(config, items.names.to_pylist(), root=root)
            rankings = _measure(config, store, recommended, user_names, items.names, counts, reference, days, groups)
            results = rankings.results
            write_evaluation(results["model"], folder / "per_user.parquet")
            write_details(rankings, folder / "details")
            metrics = {**_summary(results["model"]), "popularity": _summary(results["popularity"]), **metrics}
        write_json(folder / "metrics.json", metrics)
        write_table(folder / "metrics_at_k.csv", results, config.evaluate.k)
        _write_tensorboard(folder / "tensorboard", results)
        write_checksums(folder)


def _rank(
    config: Config, encoder: Encoder, store: SequenceStore, users: Any, item_names: Any, out: Path
) -> tuple[npt.NDArray[np.int32], dict[str, object]]:
    """Write the lists of the model and ``details/memory.json``; return the lists ``[U, K]`` and their cost."""
    device = encoder.item_table.device
    recommended = np.empty((len(store), max(config.evaluate.k)), dtype=np.int32)  # [U, K]
    memory.reset_peak(device)
    started = time.perf_counter()
    how = config.evaluate
    ranked = ranked_batches(
        encoder, store, max(how.k), batch_users=how.batch_users, filter_seen=how.filter_seen, title="rank"
    )
    start = 0
    for ids in write_recommendations(out / "recommendations.parquet", ranked, users, item_names):
        recommended[start : start + len(ids)] = ids
        start += len(ids)
    seconds = time.perf_counter() - started
    peak = {"peak_gib": round(memory.peak_gib(device), 3), "kind": memory.peak_kind(device)}
    write_json(out / "details" / "memory.json", peak)
    return recommended, {
        **_tested(store),
        "rank_seconds": round(seconds, 3),
        "users_per_second": round(len(store) / seconds, 1),  # lists, if some users have several
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    }


def _tested(store: SequenceStore) -> dict[str, int]:
    """The number of test users, and that of their targets if some users have several."""
    users = {"users": store.num_users}
    return users if store.num_users == len(store) else users | {"targets": len(store)}


def _measure(
    config: Config,
    store: SequenceStore,
    recommended: npt.NDArray[np.int32],
    users: Any,
    items: pa.Array,
    counts: arrays.Int64s,
    reference: LogCounts,
    days: arrays.Int64s | None,
    groups: arrays.Int64s | None,
) -> Rankings:
    """Compute every metric of the model's lists ``[U, K]`` and of the ranking by ``counts`` [V], that of training."""
    assert store.targets is not None
    targets = store.targets.numpy()
    seen = {"seen_offsets": store.offsets, "seen_items": store.items} if config.evaluate.filter_seen else {}
    popular = popularity_top_k(torch.tensor(counts), recommended.shape[1], num_users=len(store), **seen)
    lists = {"model": recommended, "popularity": popular.ids.numpy().astype(np.int32)}
    baseline = Baseline(lists["popularity"], counts)
    history = None if config.evaluate.filter_seen else (store.offsets, store.items)  # else every item is new
    names = users.to_numpy(zero_copy_only=False)
    target_names = items.take(pa.array(targets)).to_numpy(zero_copy_only=False)
    return Rankings(
        lists=lists,
        results={
            name: compute_metrics(
                ids,
                targets,
                config.evaluate.k,
                reference,
                baseline=baseline,
                history=history,
                groups=groups,
                user_ids=names,
                targets=target_names,
            )
            for name, ids in lists.items()
        },
        targets=targets,
        offsets=store.offsets.numpy(),
        history=store.items.numpy(),
        counts=counts,
        user_names=users,
        item_names=items,
        days=days,
    )


def reference_log(config: Config, split: Path, num_items: int, hashes: Mapping[str, str] | None = None) -> LogCounts:
    """The log that Coverage and Surprisal count in, of the ids with these hashes.

    With ``test_input`` the paper also counts the inputs of users with a future who are not tested: ``untargeted``.
    """
    names = ["train"] if config.evaluate.reference == "train" else ["test"]
    if config.paper_faithful and config.evaluate.reference == "test_input" and config.split.strategy == "temporal":
        names.append("untargeted")
    paths = [split / "sequences" / f"{name}.arrow" for name in names]
    logs = [read_output(SequenceStore.open, path, hashes=hashes) for path in paths]
    if (users := sum(map(len, logs))) < 2:
        raise StageError(f"{split}: found {users} user in {' and '.join(names)}, allowed: at least 2 (of a larger log)")
    return LogCounts.from_logs([(log.offsets, log.items) for log in logs], num_items)


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
