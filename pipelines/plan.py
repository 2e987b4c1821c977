"""Predict memory and time of training before anything runs: will it fit, and how long will it take?

    python -m pipelines.plan [--gpu 40]                     # the point of params.yaml
    python -m pipelines.plan --table 4 [--dataset gowalla] [--sharing tile] [--gpu 40]
    python -m pipelines.plan --search --loss cce_neg --dataset beauty
    python -m pipelines.plan --refit results/training.csv   # constants from measured runs
    python -m pipelines.plan --check results/training.csv [--page results/planner.md]   # predicted beside measured

``cutrec plan`` predicts a point of your own. `rec_models.planning` describes the model of memory and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from cutrec import config
from cutrec.arguments import make_parser, parse
from cutrec.commands.plan import source_of, table_of
from cutrec.console import prepare_output_file, run_and_exit
from cutrec.errors import UsageError
from cutrec.nested import merged, parse_overrides
from cutrec.workflow.plan import plan
from pipelines.paper import points


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
        wanted = _points(options)
        print(table_of({points.experiment_name(point): plan(point, calibration) for point in wanted}, options.gpu))
        for line in points.without_use(wanted, options.extra):
            print(f"note: {line}")
        print(f"\nGiB of a GPU with {options.gpu:g}; {source_of(calibration)}")


def _points(options: Namespace) -> list[config.Config]:
    values = points.load()
    common = {"sharing": options.sharing, "paper_faithful": options.faithful, "extra": options.extra}
    if options.search:
        dataset, *others = options.dataset or ["beauty"]
        if others:
            raise config.ConfigError(f"--dataset: found {len(others) + 1} of them, allowed: one with --search")
        found = points.search_points(values, model=options.model, loss=options.loss, dataset=dataset, **common)
        return [point.params for point in found]
    if options.table:
        found = points.table_points(values, options.table, datasets=options.dataset or [], **common)
        return [point.params for point in points.distinct(found)]
    named = [{"dataset": dataset} for dataset in options.dataset or []]
    return [config.from_mapping(merged(values, dataset, options.extra)) for dataset in named or [{}]]


def _parse(arguments: Sequence[str] | None) -> Namespace:
    """The options of a command line.

    Raises:
        UsageError: one line that names the option.
    """
    parser = make_parser(str(__doc__), prog="python -m pipelines.plan")
    parser.add_argument("--gpu", type=float, default=80.0, help="GiB of the GPU (default: 80)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="append", help="of the paper; may be given several times")
    what.add_argument("--search", action="store_true", help="the paper's search grid of --model, --loss, --dataset")
    what.add_argument("--refit", type=Path, nargs="+", metavar="CSV", help="fit the constants to measured runs")
    what.add_argument("--check", type=Path, nargs="+", metavar="CSV", help="predicted beside measured")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write --check as a page of markdown")
    parser.add_argument("--dataset", action="append", help="of the table, the search or the point of params.yaml")
    parser.add_argument("--sharing", choices=["none", "tile", "batch"], help="which tokens share negatives: none")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    parser.add_argument("--model", choices=["sasrec", "bert4rec"], help="of the search: sasrec")
    parser.add_argument("--loss", help="of the search: cce_neg")
    parser.add_argument("-S", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="over the points")
    options = parse(parser, arguments)
    if options.gpu <= 0:
        raise UsageError(f"--gpu: found {options.gpu:g}, allowed: GiB above 0")
    _refuse_unused(options)
    options.table = [_whole("--table", text) for text in options.table or []]
    options.sharing, options.model = options.sharing or "none", options.model or "sasrec"
    options.loss, options.extra = options.loss or "cce_neg", parse_overrides(options.extra)
    return options


def _whole(name: str, text: str) -> int:
    """The value of an option that is given several times, which jsonargparse leaves as text."""
    if not text.isdigit():
        raise UsageError(f"{name}: found {text!r}, allowed: a whole number")
    return int(text)


def _refuse_unused(options: Namespace) -> None:
    """Refuse an option that would have no effect."""
    points_asked = options.search or options.table
    for name, key, allowed, where in (
        ("model", "model", options.search, "--search"),
        ("loss", "loss", options.search, "--search"),
        ("sharing", "negatives.sharing", points_asked, "--table or --search"),
        ("faithful", "paper_faithful", points_asked, "--table or --search"),
    ):
        if options[name] and not allowed:
            raise UsageError(f"--{name}: allowed with {where}; -S {key}=... changes a point")
    if options.page and not options.check:
        raise UsageError("--page: allowed with --check")


if __name__ == "__main__":
    run_and_exit(main)
