"""What is measured of a point: the fields of a result, which are the columns of a results file."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Self

from cutrec import config
from cutrec.reporting import paper_settings as prescription
from rec_models.losses import LOSSES

Kind = Literal["training", "accuracy"]
Status = Literal["ok", "out of memory", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement of one point."""

    # The point: what makes two rows measurements of the same thing.
    kind: Kind
    """``training``: time and memory of training steps. ``accuracy``: a whole training, and metrics of its test."""
    dataset: str
    """Name or path, without ``twin:``."""
    twin: float | None = None
    """Scale of the synthetic twin (1: the published sizes); None: the log itself."""
    model: str
    loss: str
    sampling: str | None = None
    """Of the negatives: uniform, popularity, in_batch; None for a loss that draws none."""
    sharing: str | None = None
    """Who shares negatives: none, tile, batch; None for a loss that draws none."""
    num_negatives: int | None = None
    """A token; None for a loss that draws none."""
    batch_size: int
    """Sequences."""
    max_seq_len: int
    hidden: int
    """Width D of the network and of the item table."""
    seed: int
    paper_faithful: bool
    precision: str
    """As trained: bf16-mixed, 16-mixed or 32-true."""
    options: str | None = None
    """What was done otherwise than the paper's tables prescribe, as ``dropout=0.3;learning_rate=0.0003``.

    None: nothing. See `cutrec.reporting.paper_settings.options`.
    """

    # Where and with what.
    status: Status = "ok"
    """Whether it ran: a point that does not fit is a result too."""
    device: str
    """Name of the GPU, or the processor."""
    driver: str | None = None
    python: str | None = None
    torch: str | None = None
    triton: str | None = None
    lightning: str | None = None
    revision: str | None = None
    """Of git; with ``+`` where files that git tracks differ from it."""
    measured_at: str | None = None
    """UTC, ISO 8601, to the second."""

    # The data.
    num_items: int | None = None
    """V, the catalogue."""
    train_users: int | None = None
    """Training sequences of an epoch of the whole log."""
    validation_users: int | None = None
    """Users that validation ranks for, of the whole log."""

    # Training.
    steps_timed: int | None = None
    """Optimiser steps in the times below, after the warm-up."""
    warmup_steps: int | None = None
    """Steps before them. Where steps are recorded as CUDA graphs, each size of batch was there twice."""
    replayed_steps: int | None = None
    """Of the timed steps: replays of recorded ones. 0: all were launched kernel by kernel."""
    tokens_per_step: float | None = None
    """Mean real places (no padding) of a timed step."""
    most_tokens: int | None = None
    """Real places of the largest batch of the timed steps: what the loop's peak memory belongs to."""
    step_ms: float | None = None
    """Median of a whole step: data, forward, loss, backward, Adam."""
    step_ms_p10: float | None = None
    step_ms_p90: float | None = None
    mean_step_ms: float | None = None
    """Wall clock of all timed steps over their number."""
    wait_share: float | None = None
    """Of that wall clock: waiting for a batch while the GPU had nothing to do."""
    steps_per_epoch: int | None = None
    epoch_seconds: float | None = None
    """The training loop of an epoch, loading included, validation and checkpoints left out."""
    validation_seconds: float | None = None
    """Validation after an epoch."""
    whole_epoch_seconds: float | None = None
    """An epoch with its validation: what the paper's seconds are."""
    epoch_basis: Literal["measured", "extrapolated"] | None = None
    """Whether whole epochs were timed, or steps (and users of validation) times how many of them an epoch has."""
    peak_loop_gib: float | None = None
    """Peak memory of the training loop: torch's allocator on a GPU, resident memory of the process on a CPU."""
    peak_fit_gib: float | None = None
    """The same over the whole fit, validation included: what the paper's memory is."""

    # Accuracy, of the test users.
    epochs: int | None = None
    """Epochs trained."""
    best_epoch: int | None = None
    train_loss: float | None = None
    validation_ndcg_at_10: float | None = None
    test_users: int | None = None
    reference: str | None = None
    """The log that coverage and surprisal count in: train or test_input."""
    ndcg_at_10: float | None = None
    recall_at_10: float | None = None
    hitrate_at_10: float | None = None
    precision_at_10: float | None = None
    map_at_10: float | None = None
    mrr_at_10: float | None = None
    coverage_at_10: float | None = None
    surprisal_at_10: float | None = None

    note: str | None = None
    """Anything a reader must know, in a few words."""

    @classmethod
    def of(cls, point: config.Config, kind: Kind, **values: Any) -> Self:
        """A result of a point.

        Args:
            point: what was measured; a loss without negatives leaves their fields empty.
            kind: training or accuracy.
            values: the other fields; they also override what comes from the point (``precision`` as trained).
        """
        return cls(**(point_fields(point) | {"kind": kind} | values))

    @property
    def key(self) -> tuple[object, ...]:
        """The point and the kind: equal for two measurements of the same thing, on whatever machine and revision."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def dataset_label(self) -> str:
        """The data set as params.yaml names it."""
        if self.twin is None:
            return self.dataset
        return f"twin:{self.dataset}" + ("" if self.twin == 1 else f"@{self.twin:g}")


COLUMNS = tuple(entry.name for entry in fields(Result))
KEY = COLUMNS[: COLUMNS.index("options") + 1]


class Range(NamedTuple):
    """Which finite numbers a column may hold."""

    low: float
    high: float
    words: str
    """After "a number": nothing, or what is allowed."""


_FROM_0 = Range(0, math.inf, " from 0")
_FROM_1 = Range(1, math.inf, " from 1")
_SHARE = Range(0, 1, " from 0 to 1")
_NUMERIC = [entry.name for entry in fields(Result) if {"int", "float"} & set(str(entry.type).split(" | "))]
RANGES: dict[str, Range] = {
    **dict.fromkeys(_NUMERIC, _FROM_0),
    **dict.fromkeys(("num_negatives", "batch_size", "max_seq_len", "hidden"), _FROM_1),
    **dict.fromkeys(("wait_share", *(name for name in _NUMERIC if name.endswith("_at_10"))), _SHARE),
    "twin": Range(sys.float_info.min, math.inf, " above 0"),
    "train_loss": Range(-math.inf, math.inf, ""),
}
"""Of every column of numbers."""


def point_fields(point: config.Config) -> dict[str, Any]:
    """The fields of a `Result` that come from the point."""
    twin = None
    dataset = point.dataset
    if dataset.startswith("twin:"):
        dataset, at, scale = dataset.removeprefix("twin:").partition("@")
        twin = float(scale) if at else 1.0
    draws = LOSSES[point.loss].sampled
    negatives = 1 if point.loss == "bce" else point.num_negatives
    # The paper's losses share nothing, whatever the point says: rec_models.config.LossSettings.pick drops it too.
    sharing = "none" if point.paper_faithful else point.negatives.sharing
    return {
        "dataset": dataset,
        "twin": twin,
        "model": point.model,
        "loss": point.loss,
        "sampling": point.negatives.sampling if draws else None,
        "sharing": sharing if draws else None,
        "num_negatives": negatives if draws else None,
        "batch_size": point.batch_size,
        "max_seq_len": point.max_seq_len,
        "hidden": point.backbone.hidden,
        "seed": point.seed,
        "paper_faithful": point.paper_faithful,
        "precision": point.train.precision,
        "options": prescription.options(point),
    }


def of_run(point: config.Config, training: dict[str, Any], evaluation: dict[str, Any], **where: Any) -> list[Result]:
    """The results of a whole run: its training, and the accuracy of its test if it has one (a twin has none).

    Args:
        point: the run's parameters.
        training: what ``data/train/metrics.json`` holds.
        evaluation: what ``data/evaluate/metrics.json`` holds.
        where: revision, measured_at, versions.
    """
    where = {"device": training["device"], "precision": training["precision"], **where}
    trained = Result.of(
        point,
        "training",
        **where,
        epoch_seconds=training["epoch_seconds"],
        whole_epoch_seconds=training["whole_epoch_seconds"],
        epoch_basis="measured",
        peak_loop_gib=training.get("loop_peak_memory_gib"),
        peak_fit_gib=training["peak_memory_gib"],
        epochs=training["epochs"],
    )
    if "ndcg@10" not in evaluation:
        return [trained]
    metrics = {name.replace("@", "_at_"): value for name, value in evaluation.items() if name.endswith("@10")}
    accuracy = Result.of(
        point,
        "accuracy",
        **where,
        epochs=training["epochs"],
        best_epoch=training["best_epoch"],
        train_loss=training.get("train_loss"),
        validation_ndcg_at_10=training.get("validation_ndcg@10"),
        test_users=evaluation.get("users"),
        reference=evaluation.get("reference"),
        **{name: value for name, value in metrics.items() if name in COLUMNS},
    )
    return [trained, accuracy]


def as_text(value: object) -> str:
    """A cell: empty for None, true and false as YAML writes them, text on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value.split()) if isinstance(value, str) else str(value)
