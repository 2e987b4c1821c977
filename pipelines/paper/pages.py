"""The paper's tables with our results beside them, as markdown and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from cutrec.reporting.text_table import number, render
from pipelines.paper.rows import MEASURES, Line, OurRow
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

TITLES = ("NDCG@10", "Coverage@10", "Surprisal@10", "peak GiB", "epoch s")
"""Of the columns of `MEASURES`."""
NOTES = """\
Each measure has the paper's figure, then ours, and in brackets ours over the paper's. Empty: not run.

- **our run**: "twin" is a synthetic log of the data set's published shape, good for memory and time, without accuracy.
  "the data itself" is the log of that name. "predicted" is the planner's figure for the training loop alone.
- **network**: the paper's SASRec (input scale, attention dropout, ReLU, Xavier weights, only queries normalized), or
  "plain": this project's SASRec, and BERT4Rec, of which there is one.
- **peak GiB** and **epoch s** are of the whole fit, validation included, as the paper measured. Ours validates many
  users at once, so on small points the peak is that of validation. The peak of a twin is of the twelve batches that
  were taken in turn: the largest batch of a whole epoch takes up to a fifth more in CE. Seconds of a twin are
  extrapolated from timed steps. Seconds of the data itself are the mean of all epochs; the first one compiles kernels
  and takes seconds longer.
- The paper does not name its GPU, and its printed times fit another kind than ours: a ratio of seconds compares two
  GPUs as well as two programs.
- By their memory, the paper's Megamarket runs fit the 3,281,750 items of the unfiltered purchases. The twin has the
  1.66 million that the filter leaves.
- **completejourney** is no data set of the paper: a public log of a grocer's customers, which its package calls
  simulated after real ones, with the paper's settings and one size for all losses.
"""


def title(line: Line) -> str:
    """The title of a line's table."""
    point = line.point.params
    sampling = "" if _sampling(line) in (None, "uniform") else f", negatives by {_sampling(line)}"
    return f"Table {line.point.table}: {ENCODERS[point.model].title} with {LOSSES[point.loss].title}{sampling}"


def _sampling(line: Line) -> str | None:
    """How negatives are drawn; None for a loss that draws none."""
    point = line.point.params
    return point.negatives.sampling if LOSSES[point.loss].sampled else None


def _negatives(line: Line) -> int | None:
    """Negatives per token, if the row states a number."""
    loss = LOSSES[line.point.params.loss]
    return line.point.params.num_negatives if loss.sampled and not loss.fixed_negatives else None


def markdown(lines: Sequence[Line]) -> str:
    """All tables as one page, in the order of the lines."""
    parts = ["# The paper's tables, ours beside them", NOTES.strip()]
    for table in dict.fromkeys(line.point.table for line in lines):
        rows = [line for line in lines if line.point.table == table]
        parts += [f"## {title(rows[0])}", markdown_table(rows)]
    return "\n\n".join(parts) + "\n"


def markdown_table(lines: Sequence[Line]) -> str:
    """One table with a line for each of our rows; the first one has the paper's figures."""
    measures = [column for measure in TITLES for column in (measure, "ours")]
    header = ["data set", "BS x SL", "N", "our run", "network", *measures, "GPU", "revision"]
    rows = []
    for line in lines:
        point = line.point.params
        size, negatives = f"{point.batch_size} x {point.max_seq_len}", _negatives(line)
        first = [line.point.dataset, size, str(negatives or "")]
        for place, ours in enumerate(line.ours or (None,)):
            cells = [
                *(first if place == 0 else ["", "", ""]),
                *(("", "") if ours is None else (ours.label, ours.result.network)),
            ]
            for name in MEASURES:
                printed = line.paper.get(name)
                cells += [number(printed) if place == 0 and printed is not None else "", _ours(ours, name, printed)]
            cells += ["", ""] if ours is None else [_short(ours.result.device), ours.result.revision or ""]
            rows.append(cells)
    return render(header, rows, left=5)


def _ours(ours: OurRow | None, name: str, printed: float | None) -> str:
    if ours is None or name not in ours.values:
        return ""
    value = ours.values[name]
    deviation = f" ± {number(ours.deviations[name], 2)}" if name in ours.deviations else ""
    return number(value) + deviation + (f" ({number(value / printed, 2)})" if printed else "")


def _short(device: str) -> str:
    return device.replace("NVIDIA ", "").replace(" 80GB HBM3", "")


def write_csv(lines: Sequence[Line], path: Path) -> None:
    """One CSV row for each row of the paper and of ours, with the ratio of each measure; empty if nothing was run."""
    of_point = ["table", "model", "loss", "sampling", "dataset", "batch_size", "max_seq_len", "num_negatives"]
    of_row = ["network", "twin", "sharing", "paper_faithful", "seeds", "predicted", "status", "options", "device"]
    of_row.append("revision")
    measures = [f"{name}_{column}" for name in MEASURES for column in ("paper", "ours", "deviation", "ratio")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*of_point, *of_row, *measures])
        for line in lines:
            point, negatives = line.point.params, _negatives(line)
            sizes = [line.point.dataset, point.batch_size, point.max_seq_len, negatives]
            for ours in line.ours or (None,):
                own = {} if ours is None else {"twin": ours.twin, "seeds": " ".join(map(str, ours.seeds))}
                how = {} if ours is None else vars(ours.result) | own | {"predicted": ours.predicted}
                cells = [line.point.table, point.model, point.loss, _sampling(line), *sizes, *map(how.get, of_row)]
                for name in MEASURES:
                    printed, value = line.paper.get(name), None if ours is None else ours.values.get(name)
                    ratio = None if value is None or not printed else float(f"{value / printed:.4g}")
                    deviation = None if ours is None else ours.deviations.get(name)
                    cells += [
                        printed,
                        *(None if one is None else float(f"{one:.6g}") for one in (value, deviation)),
                        ratio,
                    ]
                writer.writerow(cells)
