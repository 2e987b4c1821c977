"""Whether a later log differs from an earlier one by more than is usual there, with a page and JSON that say so."""

import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.errors import StageError
from cutrec.outputs import write_json
from cutrec.reporting import html
from rec_data.drift import Compared
from rec_eval import student_quantile

TEMPLATE = Path(__file__).parent / "drift.html.jinja"
MEASURES = {
    "turnover": "Catalogue turnover: share of the items of two successive windows that are in only one of them",
    "popularity": "Popularity shift: Jensen-Shannon divergence of the items' shares in the events, in bits",
    "lengths": "Events per user: largest gap of the distribution functions (Kolmogorov-Smirnov)",
    "unknown": "Unknown items: share of the events on items that a model cannot know yet",
    "scores": "Scores of the model: largest gap of the distribution functions of the best score of each user",
}
"""What each measure is; all of them lie between 0 and 1, and 0 means no change."""
FEWEST = 3
"""Pairs of windows that say how much a measure varies."""
LEAST = 0.01
"""The smallest threshold, so that one event on a new item is no drift where there were none before."""


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

    The threshold is the largest one of the values of A, of the upper end of Student's prediction interval for one more
    window, ``mean + t sd sqrt(1 + 1 / m)`` for m values of A (Hahn and Meeker, "Statistical Intervals", 1991), and of
    `LEAST`.

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
        threshold = min(1.0, max(*usual, bound, LEAST))
        found.append(Measure(name, MEASURES[name], value, threshold, value > threshold, windows))
    return found


def table(measures: Sequence[Measure]) -> list[tuple[str, ...]]:
    """The measures as texts, with a header."""
    rows: list[tuple[str, ...]] = [("measure", "B", "threshold", "usual in A", "")]
    for each in measures:
        usual = [value for value in each.windows if not math.isnan(value)]
        span = f"{min(usual):.4f} to {max(usual):.4f}"
        rows.append((each.name, f"{each.value:.4f}", f"{each.threshold:.4f}", span, "beyond" * each.beyond))
    return rows


def as_json(compared: Compared, measures: Sequence[Measure], names: dict[str, str | None]) -> dict[str, Any]:
    """All that was measured; null in place of NaN."""
    windows = [
        {key: value for key, value in window._asdict().items() if not (isinstance(value, float) and math.isnan(value))}
        for window in compared.windows
    ]
    found = [
        {
            "name": each.name,
            "value": each.value,
            "threshold": each.threshold,
            "beyond": each.beyond,
            "windows_of_a": [None if math.isnan(value) else value for value in each.windows],
        }
        for each in measures
    ]
    return {
        **names,
        "drifted": any(each.beyond for each in measures),
        "measures": found,
        "windows": windows,
        "items_that_changed_most": [change._asdict() for change in compared.changes],
    }


def write_drift(
    compared: Compared, measures: Sequence[Measure], names: dict[str, str | None], out: Path, *, command: str
) -> None:
    """Write ``drift.json`` and ``drift.html``, which needs no other file, into an existing folder."""
    from cutrec.reporting.figures import draw_drift

    dates = [window.begin[:10] for window in compared.windows[1:]]
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for each in measures:
            path = Path(folder) / f"{each.name}.png"
            draw_drift(dates, [*each.windows, each.value], each.threshold, path, title=each.text.split(":")[0])
            pictures.append((each.text, html.picture(path.read_bytes())))
    header, *rows = table(measures)
    page = (
        html.environment(TEMPLATE.parent)
        .get_template(TEMPLATE.name)
        .render(
            title=f"Drift from {names['a']} to {names['b']}",
            beyond=[each.name for each in measures if each.beyond],
            header=header,
            rows=rows,
            pictures=pictures,
            windows=compared.windows,
            changes=compared.changes,
            command=command,
        )
    )
    (out / "drift.html").write_text(page, encoding="utf-8")
    write_json(out / "drift.json", as_json(compared, measures, names))
