"""The paper's 15 tables with our results beside them: printed, and written as markdown, CSV and pictures.

Our results are the finished experiments that DVC knows and the rows of results files
(`cutrec.reporting.results_file`). A row that was not run stays empty; ``--predict`` fills in the planner's memory and
seconds, and marks them.

Example:
    uv run python -m pipelines.paper.tables --table 4 --predict
"""

import csv
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from cutrec.arguments import make_parser, parse
from cutrec.console import prepare_output_folder, run_and_exit
from cutrec.errors import StageError
from cutrec.reporting import results_file as results
from pipelines.paper import pages, pictures, points, rows
from rec_models import planning

OUT = Path("results")


def main(arguments: Sequence[str] | None = None) -> None:
    """Gather the results, print the tables and write the files."""
    options = _parse(arguments)
    values = points.load()
    tables = dict.fromkeys(point.table for point in points.table_points(values, options.table))
    prepare_output_folder("--out", options.out)
    measured, remarks = _measured(options.results or _results_files(OUT), dvc=options.dvc)
    calibration = planning.load() if options.predict else None
    lines = rows.lines(measured, values, calibration=calibration)
    for table in tables:
        of_table = [line for line in lines if line.point.table == table]
        print(f"\n{pages.title(of_table[0])}\n\n{pages.markdown_table(of_table)}")
    (options.out / "tables.md").write_text(pages.markdown(lines), encoding="utf-8")
    pages.write_csv(lines, options.out / "tables.csv")
    drawn = pictures.draw_all(lines, options.out)
    for remark in [*remarks, *rows.without_row(measured, values)]:
        print(f"note: {remark}")
    rows_with_ours = sum(any(not row.predicted for row in line.ours) for line in lines)
    predicted = sum(any(row.predicted for row in line.ours) for line in lines)
    print()
    if rows_with_ours == 0:
        print(
            "nothing of ours is known yet: `python -m pipelines.paper.grid` queues the tables' points, "
            "`python -m pipelines.measure` times them, --predict shows what the planner foresees"
        )
    print(
        f"{rows_with_ours} of {len(lines)} rows have something of ours, {predicted} hold a prediction; "
        f"all of them: {options.out}/tables.md, tables.csv, {', '.join(path.name for path in drawn)}"
    )


def _measured(files: Sequence[Path], *, dvc: bool) -> tuple[list[results.Result], list[str]]:
    """The results of files and of DVC's experiments, and remarks on experiments that give none."""
    measured = rows.read_results(files)
    if not dvc:
        return measured, []
    if importlib.util.find_spec("dvc") is None:
        raise StageError("DVC is not installed here: --no-dvc reads results files only")
    from pipelines.paper import experiments

    with experiments.repository() as repo:
        found, remarks = experiments.results_of(experiments.list_experiments(repo))
    return results.merge([measured, found]), remarks


def _results_files(folder: Path) -> list[Path]:
    """The results files of a folder: CSV files with the columns of the schema."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            if set(next(csv.reader(file), [])) == set(results.COLUMNS):
                found.append(path)
    return found


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = make_parser(str(__doc__), prog="python -m pipelines.paper.tables")
    parser.add_argument("--table", action="append", help="print only this; several times: these")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="results files; default: those in results/")
    parser.add_argument("--no-dvc", dest="dvc", action="store_false", help="results files only")
    parser.add_argument("--predict", action="store_true", help="the planner's figures where nothing was measured")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the page, the CSV and the pictures")
    options = parse(parser, arguments)
    options.table = points.table_numbers(options.table)
    return options


if __name__ == "__main__":
    run_and_exit(main)
