"""Rank the whole catalogue for every test user, by the model and by popularity, and measure both rankings."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.tensorboard import SummaryWriter

from cutrec.config import Config
from cutrec.outputs import atomic_folder, unchanged, write_csv, write_json
from cutrec.reporting.details import Rankings, write_details
from cutrec.workflow.recommendations import ranked_batches, write_recommendations
from rec_data.sequences.store import SequenceStore
from rec_eval import Evaluation, LogCounts, popularity_top_k, write_evaluation
from rec_eval import evaluate as compute_metrics
from rec_models.inference import load
from rec_models.training import memory
from rec_models.training.devices import cpu_name


def evaluate(config: Config, split: Path, model: Path, out: Path) -> None:
    """Rank, measure and write the results into the folder `out`.

    Writes ``metrics.json`` (the summary at 10), ``metrics_at_k.csv`` (every metric at every k), ``details/`` (see
    `cutrec.reporting.details`), ``per_user.parquet``, ``recommendations.parquet`` (ids as in the raw log) and
    ``tensorboard/``. A synthetic log has no accuracy, so only times and memory are written for it.
    """
    with unchanged(split), atomic_folder(out) as folder:
        store = SequenceStore.open(split / "sequences" / "test.arrow")
        items = pq.read_table(split / "items.parquet").combine_chunks()
        users = pq.read_table(split / "users.parquet", columns=["original_id"])["original_id"].combine_chunks()
        (folder / "details").mkdir()
        recommended, costs = _rank(config, model, store, users, items["original_id"].combine_chunks(), folder)
        metrics: dict[str, object] = {**costs, "reference": config.evaluate.reference}
        user_names = users.take(pa.array(store.user_ids.numpy()))
        results: dict[str, Evaluation] = {}
        if config.dataset.startswith("twin:"):
            pq.write_table(pa.table({"user_id": user_names}), folder / "per_user.parquet")
        else:
            rankings = _measure(config, split, store, recommended, user_names, items)
            results = rankings.results
            write_evaluation(results["model"], folder / "per_user.parquet")
            write_details(rankings, folder / "details")
            metrics = {**_summary(results["model"]), "popularity": _summary(results["popularity"]), **metrics}
        write_json(folder / "metrics.json", metrics)
        write_table(folder / "metrics_at_k.csv", results, config.evaluate.k)
        _write_tensorboard(folder / "tensorboard", results)


def _rank(
    config: Config, model: Path, store: SequenceStore, users: Any, item_names: Any, out: Path
) -> tuple[npt.NDArray[np.int32], dict[str, object]]:
    """Write the lists of the model and ``details/memory.json``; return the lists ``[U, K]`` and their cost."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load(model, device)
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
        "users": len(store),
        "rank_seconds": round(seconds, 3),
        "users_per_second": round(len(store) / seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    }


def _measure(
    config: Config, split: Path, store: SequenceStore, recommended: npt.NDArray[np.int32], users: Any, items: pa.Table
) -> Rankings:
    """Compute every metric of the model's lists ``[U, K]`` and of the ranking by popularity."""
    assert store.targets is not None
    targets = store.targets.numpy()
    counts = items["count"].to_numpy()  # [V] int64, interactions in training
    seen = {"seen_offsets": store.offsets, "seen_items": store.items} if config.evaluate.filter_seen else {}
    popular = popularity_top_k(torch.tensor(counts), recommended.shape[1], num_users=len(store), **seen)
    lists = {"model": recommended, "popularity": popular.ids.numpy().astype(np.int32)}
    reference, names = reference_log(config, split, len(items)), users.to_numpy(zero_copy_only=False)
    return Rankings(
        lists=lists,
        results={
            name: compute_metrics(ids, targets, config.evaluate.k, reference, user_ids=names)
            for name, ids in lists.items()
        },
        targets=targets,
        offsets=store.offsets.numpy(),
        history=store.items.numpy(),
        counts=counts,
        user_names=users,
        item_names=items["original_id"].combine_chunks(),
    )


def reference_log(config: Config, split: Path, num_items: int) -> LogCounts:
    """The log that Coverage and Surprisal count in.

    With ``test_input`` the paper also counts the inputs of users whose target was removed, stored as ``untargeted``.
    """
    names = ["train"] if config.evaluate.reference == "train" else ["test"]
    if config.paper_faithful and config.evaluate.reference == "test_input" and config.split.strategy == "temporal":
        names.append("untargeted")
    logs = [SequenceStore.open(split / "sequences" / f"{name}.arrow") for name in names]
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
    write_csv(path, ["k", *names], ([k, *(round(values[name, k], 6) for name in names)] for k in sorted(ks)))


def _write_tensorboard(folder: Path, results: dict[str, Evaluation]) -> None:
    """Write the metrics as scalars over k: TensorBoard's step is k."""
    for name, result in results.items():
        with SummaryWriter(str(folder / name)) as writer:
            for row in result.rows():
                writer.add_scalar(f"at_k/{row.metric}", row.value, row.k)
    folder.mkdir(exist_ok=True)
