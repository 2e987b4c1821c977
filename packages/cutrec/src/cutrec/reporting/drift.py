"""The page and the JSON of `cutrec drift`."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutrec.outputs import write_json
from cutrec.reporting import html
from cutrec.workflow.drift import Measure
from rec_data.drift import Compared

TEMPLATE = Path(__file__).parent / "drift.html.jinja"


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
