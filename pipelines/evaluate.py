"""Stage ``evaluate``: the whole catalogue ranked for every test user, by the model and by popularity.

    python -m pipelines.evaluate

Reads ``evaluate`` of params.yaml, ``data/split/`` and ``data/train/model.ckpt``; writes into ``data/evaluate/``
``metrics.json`` (the summary at 10), ``metrics_at_k.csv`` (every metric at every k), ``details/`` (intervals, bands,
popularity, example users), ``per_user.parquet``, ``recommendations.parquet`` (ids as in the raw log) and TensorBoard's
``tensorboard/``.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutrec import config
from cutrec.workflow import outputs as stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from cutrec.reporting.details import Run
    from rec_data.sequences.store import SequenceStore
    from rec_eval import Evaluation, LogCounts, TopK
    from rec_models.encoders import Encoder

SUMMARY_K = 10
SPLIT = stage.DATA / "split"


def main() -> None:
    """Rank, measure, write."""
    point = config.load()

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from cutrec.reporting import details
    from cutrec.workflow.recommendations import RecommendationsWriter
    from rec_data.sequences.store import SequenceStore
    from rec_eval import write_evaluation
    from rec_models.inference import load
    from rec_models.training import memory
    from rec_models.training.devices import cpu_name

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load(stage.DATA / "train" / "model.ckpt", device)
    store = SequenceStore.open(SPLIT / "sequences" / "test.arrow")
    items = pq.read_table(SPLIT / "items.parquet").combine_chunks()
    item_names = items["original_id"].combine_chunks()
    users = pq.read_table(SPLIT / "users.parquet", columns=["original_id"])["original_id"].combine_chunks()
    longest = max(point.evaluate.k)

    with stage.output(stage.DATA / "evaluate") as out:
        recommended = np.empty((len(store), longest), dtype=np.int32)  # [U, K]
        memory.reset_peak(device)
        started = time.perf_counter()
        path = out / "recommendations.parquet"
        with RecommendationsWriter(path, users, item_names) as writer:
            for start, lists in _rank(encoder, store, longest, point.evaluate):
                end = start + len(lists.ids)
                recommended[start:end] = lists.ids.cpu().numpy()
                writer.write(store.user_ids[start:end].numpy(), lists)
        seconds = time.perf_counter() - started
        (out / "details").mkdir()
        stage.write_json(
            out / "details" / "memory.json",
            {"peak_gib": round(memory.peak_gib(device), 3), "kind": memory.peak_kind(device)},
        )

        metrics: dict[str, object] = {
            "users": len(store),
            "rank_seconds": round(seconds, 3),
            "users_per_second": round(len(store) / seconds, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "reference": point.evaluate.reference,
        }
        user_names = users.take(pa.array(store.user_ids.numpy()))
        results: dict[str, Evaluation] = {}
        if point.dataset.startswith("twin:"):  # a twin has a real log's shape and nothing to be accurate about
            pq.write_table(pa.table({"user_id": user_names}), out / "per_user.parquet")
        else:
            run = measure(point, store, recommended, user_names, item_names, items["count"].to_numpy())
            results = run.results
            write_evaluation(results["model"], out / "per_user.parquet")
            details.write_details(run, out / "details")
            metrics = {**_summary(results["model"]), "popularity": _summary(results["popularity"]), **metrics}
        stage.write_json(out / "metrics.json", metrics)
        _write_table(out / "metrics_at_k.csv", results, point.evaluate.k)
        _write_tensorboard(out / "tensorboard", results)


def measure(
    point: config.Config,
    store: SequenceStore,
    recommended: npt.NDArray[np.int32],
    user_names: Any,
    item_names: Any,
    counts: npt.NDArray[np.int64],
) -> Run:
    """Every metric of the model and, beside it, of the ranking by popularity.

    Args:
        point: for ``evaluate`` and what the reference log depends on.
        store: the test histories and their targets.
        recommended: ``[U, K]`` the model's lists, -1 in empty places.
        user_names: ``[U]`` Arrow array, ids as in the raw log.
        item_names: ``[V]`` likewise.
        counts: ``[V]`` interactions of each item in training.
    """
    import numpy as np
    import torch

    from cutrec.reporting.details import Run
    from rec_eval import evaluate, popularity_top_k

    assert store.targets is not None
    targets = store.targets.numpy()
    reference = _reference(point, len(counts))
    popular = popularity_top_k(
        torch.tensor(counts),
        recommended.shape[1],
        num_users=len(store),
        seen_offsets=store.offsets if point.evaluate.filter_seen else None,
        seen_items=store.items if point.evaluate.filter_seen else None,
    )
    lists = {"model": recommended, "popularity": popular.ids.numpy().astype(np.int32)}
    names = user_names.to_numpy(zero_copy_only=False)
    return Run(
        lists=lists,
        results={
            name: evaluate(ids, targets, point.evaluate.k, reference, user_ids=names) for name, ids in lists.items()
        },
        targets=targets,
        offsets=store.offsets.numpy(),
        history=store.items.numpy(),
        counts=counts,
        user_names=user_names,
        item_names=item_names,
    )


def _rank(encoder: Encoder, store: SequenceStore, k: int, settings: config.Evaluate) -> Iterator[tuple[int, TopK]]:
    """The top k of each batch of users, with the row that the batch starts at."""
    from cutrec.workflow import ranking
    from rec_eval import top_k

    for batch in ranking.user_batches(
        encoder, store, batch_users=settings.batch_users, filter_seen=settings.filter_seen, title="rank"
    ):
        yield (
            batch.start,
            top_k(batch.queries, batch.items, k, seen_offsets=batch.seen_offsets, seen_items=batch.seen_items),
        )


def _reference(point: config.Config, num_items: int) -> LogCounts:
    """The log that Coverage and Surprisal count in.

    The paper counts in the inputs of all users with a future, those too that lost their target: ``untargeted``.
    """
    from rec_data.sequences.store import SequenceStore
    from rec_eval import LogCounts

    names = ["train"] if point.evaluate.reference == "train" else ["test"]
    if point.paper_faithful and point.evaluate.reference == "test_input" and point.split.strategy == "temporal":
        names.append("untargeted")
    logs = [SequenceStore.open(SPLIT / "sequences" / f"{name}.arrow") for name in names]
    return LogCounts.from_logs([(log.offsets, log.items) for log in logs], num_items)


def _summary(result: Evaluation) -> dict[str, float]:
    return {name: round(value, 6) for name, value in result.summary().items() if name.endswith(f"@{SUMMARY_K}")}


def _write_table(path: Path, results: dict[str, Evaluation], ks: tuple[int, ...]) -> None:
    """One row for each k, a column for each metric of the model and of popularity: what ``dvc plots`` draws."""
    values = {
        (f"popularity_{row.metric}" if ranking == "popularity" else row.metric, row.k): row.value
        for ranking, result in results.items()
        for row in result.rows()
    }
    names = list(dict.fromkeys(name for name, _ in values))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["k", *names])
        writer.writerows([k, *(round(values[name, k], 6) for name in names)] for k in sorted(ks))


def _write_tensorboard(folder: Path, results: dict[str, Evaluation]) -> None:
    """Metrics over k as scalars: TensorBoard's step is k."""
    from torch.utils.tensorboard import SummaryWriter

    for name, result in results.items():
        with SummaryWriter(str(folder / name)) as writer:
            for row in result.rows():
                writer.add_scalar(f"at_k/{row.metric}", row.value, row.k)
    folder.mkdir(exist_ok=True)


if __name__ == "__main__":
    stage.run(main)
