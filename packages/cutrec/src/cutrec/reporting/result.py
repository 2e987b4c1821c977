"""What is measured of a point: the fields of a result, which are the columns of a results file."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from cutrec.config_point import Config
from cutrec.reporting import standard_settings
from rec_models.losses.registry import LOSSES

Kind = Literal["training", "accuracy"]
Status = Literal["ok", "out of memory", "failed"]

# What a cell of a results file may hold. Files are checked when they are read (`cutrec.reporting.results_file.read`).
Size = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _semicolons(text: str) -> str:
    """Options as they are written now: earlier files have blanks between them, and no quoted texts."""
    parts = text.split()
    return ";".join(sorted(parts)) if '"' not in text and all("=" in part for part in parts) else text


Options = Annotated[str, AfterValidator(_semicolons)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement of one point. A field that was not measured is None."""

    # The point. Two rows whose fields are equal up to `options` measure the same thing.
    kind: Kind
    """``training``: time and memory of training steps. ``accuracy``: a whole training and its test metrics."""
    dataset: str
    """Name or path, without ``twin:``."""
    twin: Scale | None = None
    """Scale of the synthetic log (1: the published sizes); None: the log itself."""
    model: str
    network: Literal["plain", "paper"]
    """``paper``: the options of SASRec's network are those of the paper's (`standard_settings.PAPER_NETWORK`)."""
    loss: str
    sampling: str | None = None
    """How negatives are drawn: uniform, popularity or in_batch; None for a loss that draws none."""
    sharing: str | None = None
    """Which tokens share negatives: none, tile or batch; None for a loss that draws none."""
    num_negatives: Size | None = None
    """Per token; None for a loss that draws none."""
    batch_size: Size
    """Sequences."""
    max_seq_len: Size
    hidden: Size
    """Width D of the network and of the item table."""
    seed: Count
    paper_faithful: bool
    precision: str
    """As trained: bf16-mixed, 16-mixed or 32-true."""
    options: Options | None = None
    """Settings that differ from the standard ones, as ``dropout=0.3;learning_rate=0.0003``; None if none differ.

    See `cutrec.reporting.standard_settings.options`.
    """

    # The machine and the versions.
    status: Status = "ok"
    """Whether the run succeeded: that a point does not fit into memory is a result too."""
    device: str
    """Name of the GPU, or of the processor."""
    driver: str | None = None
    python: str | None = None
    torch: str | None = None
    triton: str | None = None
    lightning: str | None = None
    revision: str | None = None
    """The git commit, with a ``+`` if tracked files differ from it."""
    measured_at: str | None = None
    """UTC, ISO 8601, in seconds."""

    # The data.
    num_items: Count | None = None
    """V, the size of the catalogue."""
    train_users: Count | None = None
    """Training sequences per epoch of the whole log."""
    validation_users: Count | None = None
    """Users that validation ranks for, in the whole log."""

    # Training.
    steps_timed: Count | None = None
    """Optimizer steps behind the times below, after the warm-up."""
    warmup_steps: Count | None = None
    """Steps before the timed ones. If steps are recorded as CUDA graphs, each batch size occurred twice."""
    replayed_steps: Count | None = None
    """Timed steps that replayed a recording; 0 if all were launched kernel by kernel."""
    tokens_per_step: Amount | None = None
    """Mean number of tokens per timed step, without padding."""
    most_tokens: Count | None = None
    """Tokens of the largest timed batch, which determines the loop's peak memory."""
    step_ms: Amount | None = None
    """Median of a whole step: data, forward, loss, backward, Adam."""
    step_ms_p10: Amount | None = None
    step_ms_p90: Amount | None = None
    mean_step_ms: Amount | None = None
    """Wall-clock time of all timed steps divided by their number."""
    wait_share: Share | None = None
    """Share of that time spent waiting for a batch while the GPU was idle."""
    steps_per_epoch: Count | None = None
    epoch_seconds: Amount | None = None
    """The training loop of one epoch with loading, without validation and checkpoints."""
    validation_seconds: Amount | None = None
    """The validation after an epoch."""
    whole_epoch_seconds: Amount | None = None
    """An epoch with its validation: what the paper reports as seconds."""
    epoch_basis: Literal["measured", "extrapolated"] | None = None
    """Whether whole epochs were timed, or steps and validation users were timed and scaled to an epoch."""
    peak_loop_gib: Amount | None = None
    """Peak memory of the training loop: torch's allocator on a GPU, resident memory of the process on a CPU."""
    peak_fit_gib: Amount | None = None
    """Peak memory of the whole fit with validation: what the paper reports as memory."""

    # Accuracy, over the test users.
    epochs: Count | None = None
    """Epochs trained."""
    best_epoch: Count | None = None
    train_loss: Number | None = None
    validation_ndcg_at_10: Share | None = None
    test_users: Count | None = None
    reference: str | None = None
    """The log that coverage and surprisal are computed on: train or test_input."""
    ndcg_at_10: Share | None = None
    recall_at_10: Share | None = None
    hitrate_at_10: Share | None = None
    precision_at_10: Share | None = None
    map_at_10: Share | None = None
    mrr_at_10: Share | None = None
    coverage_at_10: Share | None = None
    surprisal_at_10: Share | None = None

    note: str | None = None
    """Anything else a reader must know, in a few words."""

    @classmethod
    def of(cls, point: Config, kind: Kind, **values: Any) -> Self:
        """A result of a point; `values` override what comes from the point (``precision`` as trained)."""
        return cls(**(point_fields(point) | {"kind": kind} | values))

    @property
    def key(self) -> tuple[object, ...]:
        """The point and the kind: equal for two measurements of the same thing on any machine and revision."""
        return tuple(getattr(self, name) for name in KEY)


COLUMNS = tuple(entry.name for entry in fields(Result))
KEY = COLUMNS[: COLUMNS.index("options") + 1]


def point_fields(point: Config) -> dict[str, Any]:
    """The fields of a `Result` that come from the point; those of negatives are None for a loss without them."""
    twin = None
    dataset = point.dataset
    if dataset.startswith("twin:"):
        dataset, at, scale = dataset.removeprefix("twin:").partition("@")
        twin = float(scale) if at else 1.0
    loss = LOSSES[point.loss]
    # The paper's losses share no negatives; rec_models.losses.settings.LossSettings.pick ignores the setting as well.
    sharing = "none" if point.paper_faithful else point.negatives.sharing
    return {
        "dataset": dataset,
        "twin": twin,
        "model": point.model,
        "network": standard_settings.network(point),
        "loss": point.loss,
        "sampling": point.negatives.sampling if loss.sampled else None,
        "sharing": sharing if loss.sampled else None,
        "num_negatives": (loss.fixed_negatives or point.num_negatives) if loss.sampled else None,
        "batch_size": point.batch_size,
        "max_seq_len": point.max_seq_len,
        "hidden": point.backbone.hidden,
        "seed": point.seed,
        "paper_faithful": point.paper_faithful,
        "precision": point.train.precision,
        "options": standard_settings.options(point),
    }


def of_run(point: Config, training: dict[str, Any], evaluation: dict[str, Any], **where: Any) -> list[Result]:
    """The results of a whole run: its training, and its test accuracy unless the log is synthetic.

    Args:
        point: the run's parameters.
        training: the content of ``data/train/metrics.json``.
        evaluation: the content of ``data/evaluate/metrics.json``.
        where: revision, measured_at, versions.
    """
    where = {**{name: training[name] for name in ("device", "precision", "epochs")}, **where}
    trained = Result.of(
        point,
        "training",
        **where,
        epoch_seconds=training["epoch_seconds"],
        whole_epoch_seconds=training["whole_epoch_seconds"],
        epoch_basis="measured",
        peak_loop_gib=training.get("loop_peak_memory_gib"),
        peak_fit_gib=training["peak_memory_gib"],
    )
    if "ndcg@10" not in evaluation:
        return [trained]
    metrics = {name.replace("@", "_at_"): value for name, value in evaluation.items() if name.endswith("@10")}
    accuracy = Result.of(
        point,
        "accuracy",
        **where,
        best_epoch=training["best_epoch"],
        train_loss=training.get("train_loss"),
        validation_ndcg_at_10=training.get("validation_ndcg@10"),
        test_users=evaluation.get("users"),
        reference=evaluation.get("reference"),
        **{name: value for name, value in metrics.items() if name in COLUMNS},
    )
    return [trained, accuracy]
