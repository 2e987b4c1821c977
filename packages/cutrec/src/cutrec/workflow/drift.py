"""Whether a later log differs from an earlier one by more than successive windows of the earlier one do."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cutrec.checksums import verified
from cutrec.config import from_mapping
from cutrec.errors import StageError
from cutrec.nested import changed
from cutrec.paths import LOG, live_checkout
from rec_data.drift import Compared
from rec_eval import student_quantile

if TYPE_CHECKING:
    import pyarrow as pa

    from rec_models.encoders import Encoder

MEASURES = {
    "turnover": "Catalogue turnover: share of the items of two successive windows that are in only one of them",
    "popularity": "Popularity shift: Jensen-Shannon divergence of the items' shares in the events, in bits",
    "lengths": "Events per user: largest gap of the distribution functions (Kolmogorov-Smirnov)",
    "unknown": "Unknown items: share of the events on items that a model cannot know yet",
    "scores": "Scores of the model: largest gap of the distribution functions of the best score of each user",
}
"""What each measure is; all of them lie between 0 and 1, and 0 means no change."""
SAMPLED_USERS = 2_000
"""Of a window, whose scores are compared."""
FEWEST = 3
"""Pairs of windows that say how much a measure varies."""


class Measure(NamedTuple):
    """A measure of the later log, beside the windows of the earlier one."""

    name: str
    text: str
    value: float
    threshold: float
    beyond: bool
    windows: list[float]
    """Of each window of A beside the one before it."""


def judge(compared: Compared, scores: Sequence[float] | None, *, level: float) -> list[Measure]:
    """Compare what B measures with a threshold for each measure.

    The threshold is the larger one of the largest value of A and of the upper end of Student's prediction interval for
    one more window, ``mean + t sd sqrt(1 + 1 / m)`` for m values of A (Hahn and Meeker, "Statistical Intervals", 1991).

    Args:
        compared: both logs.
        scores: of each window but the first, if there is a model.
        level: of the two-sided prediction interval; a value within it exceeds the upper end by (1 - level) / 2.
    """
    columns = {name: [getattr(window, name) for window in compared.windows[1:]] for name in list(MEASURES)[:4]}
    if scores is not None:
        columns["scores"] = list(scores)
    found = []
    for name, (*windows, value) in columns.items():
        usual = [each for each in windows if not math.isnan(each)]
        if len(usual) < FEWEST or math.isnan(value):
            raise StageError(
                f"A: found {len(usual)} pairs of successive windows with events, allowed: at least {FEWEST}; take a "
                "longer A"
            )
        spread = statistics.stdev(usual) * math.sqrt(1 + 1 / len(usual))
        bound = statistics.fmean(usual) + student_quantile(level, len(usual) - 1) * spread
        threshold = min(1.0, max(*usual, bound))
        found.append(Measure(name, MEASURES[name], value, threshold, value > threshold, windows))
    return found


def log_of(name: str, folder: Path, values: dict[str, Any], changes: Sequence[str]) -> Path:
    """The log that a path names, as one parquet.

    A log of the stage download is used as it is: its file, or a folder that holds it, such as a checkout. Everything
    else is read as ``dataset`` of params.yaml, with ``download`` of the values and the changes, into the folder.

    Raises:
        ValueError: there is no such log, or it cannot be read.
    """
    place = Path(name)
    for path in (place, place / LOG.name, place / LOG.parent.name / LOG.name, place / LOG):
        if path.name == LOG.name and path.with_name("summary.json").is_file() and path.is_file():
            return verified(path)
    from cutrec.workflow.fetch import fetch

    out = folder / LOG.name
    folder.mkdir()
    fetch(from_mapping(changed({**values, "dataset": name}, list(changes), ("download",))), out, root=live_checkout())
    return out


def score_changes(compared: Compared, encoder: Encoder, items: pa.Array, *, tie_seed: int | None) -> list[float]:
    """How much the best score of a user changes from window to window, for some users of each window.

    The scores are those after the histories up to the end of the window, of the users with the smallest hashes of their
    ids, at most `SAMPLED_USERS`. The list has a value for each window but the first; NaN where a window has no scores.
    """
    import numpy as np
    import polars as pl

    from cutrec.workflow.ranking import scoring_catalogue
    from cutrec.workflow.recommendations import ranked_batches
    from rec_data.drift import largest_gap
    from rec_data.schema import TIMESTAMP, USER
    from rec_data.sequences.histories import table_histories
    from rec_data.sequences.parts import hash_ids_of

    catalogue = scoring_catalogue(encoder)
    found = []
    for begin, end in compared.spans:
        active = compared.events.filter(pl.col(TIMESTAMP).is_between(begin, end))
        users = active.select(pl.col(USER).unique()).collect(engine="streaming")[USER].sort()
        chosen = users[np.argsort(hash_ids_of(users.to_arrow()), kind="stable")[:SAMPLED_USERS]]
        past = compared.events.filter(pl.col(TIMESTAMP) <= end)
        rows = past.join(chosen.to_frame().lazy(), on=USER, how="semi", maintain_order="left")
        histories = table_histories(rows.collect(engine="streaming").to_arrow(), items, tie_seed=tie_seed)
        ranked = ranked_batches(
            encoder, histories.store, 1, batch_users=1024, filter_seen=False, title="score", catalogue=catalogue
        )
        scores = [lists.scores[:, 0].cpu().numpy() for _, lists in ranked]
        found.append(np.sort(np.concatenate(scores)) if scores else np.empty(0))
    return [
        largest_gap(one, other) if len(one) and len(other) else math.nan for one, other in itertools.pairwise(found)
    ]
