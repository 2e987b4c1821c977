"""Predict memory and time of training before anything runs: will it fit, and how long will it take?

``cutrec plan`` predicts a point of your own. `rec_models.planning` describes the model of memory and time.

Examples:
    uv run python -m pipelines.plan --gpu 40                         # the point of params.yaml
    uv run python -m pipelines.plan --table 4 --dataset gowalla --sharing tile --gpu 40
    uv run python -m pipelines.plan --search --loss cce_neg --dataset beauty
    uv run python -m pipelines.plan --refit results/h100/training.csv # constants from measured runs
    uv run python -m pipelines.plan --check results/training.csv --page results/planner.md
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from cutrec import config
from cutrec.arguments import make_parser
from cutrec.commands.plan import source_of, table_of
from cutrec.config_point import Config
from cutrec.console import prepare_output_file, run_and_exit
from cutrec.errors import UsageError
from cutrec.nested import merged
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.grid import add_point_options, parse_points, wanted_points


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, refit or check."""
    options = _parse(arguments)
    if options.page:
        prepare_output_file("--page", options.page)

    from pipelines.paper import planner_check
    from rec_models import planning

    calibration = planning.load()
    if options.refit:
        print(planner_check.refit(options.refit, calibration))
    elif options.check:
        text, page = planner_check.report(options.check, calibration)
        print(text)
        if options.page:
            options.page.write_text(page, encoding="utf-8")
    else:
        plans = [plan(point, calibration) for point in _points(options)]
        print(table_of({points.experiment_name(planned.point): planned for planned in plans}, options.gpu))
        for line in points.without_use([planned.point for planned in plans], options.extra):
            print(f"note: {line}")
        print(f"\nGiB of a GPU with {options.gpu:g}; {source_of(calibration)}")


def _points(options: Namespace) -> list[Config]:
    if options.search or options.table:
        return [point.params for point in wanted_points(options)]
    named = [{"dataset": dataset} for dataset in options.dataset]
    return [config.from_mapping(merged(points.load(), dataset, options.extra)) for dataset in named or [{}]]


def _parse(arguments: Sequence[str] | None) -> Namespace:
    """The options of a command line.

    Raises:
        UsageError: one line that names the option.
    """
    parser = make_parser(str(__doc__), prog="python -m pipelines.plan")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="append", help="of the paper, separated by commas")
    what.add_argument("--search", action="store_true", help="the paper's search grid of --model, --loss, --dataset")
    what.add_argument("--refit", type=Path, nargs="+", metavar="CSV", help="fit the constants to measured runs")
    what.add_argument("--check", type=Path, nargs="+", metavar="CSV", help="predicted beside measured")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write --check as a page of markdown")
    add_point_options(parser)
    options = parse_points(parser, arguments)
    for name, key in (("sharing", "negatives.sharing"), ("faithful", "paper_faithful")):
        if options[name] and not (options.search or options.table):
            raise UsageError(f"--{name}: allowed with --table or --search; -S {key}=... changes a point")
    if options.search:
        options.dataset = options.dataset or ["beauty"]
    if options.page and not options.check:
        raise UsageError("--page: allowed with --check")
    return options


if __name__ == "__main__":
    run_and_exit(main)
