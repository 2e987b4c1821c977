"""Will it fit, and how long will it take: memory and time of training, predicted before anything runs.

    python -m pipelines.plan [--gpu 40]                     # the point of params.yaml
    python -m pipelines.plan --table 4 [--dataset gowalla] [--sharing tile] [--gpu 40]
    python -m pipelines.plan --search --loss cce_neg --dataset beauty
    python -m pipelines.plan --refit results/training.csv   # constants from measured runs
    python -m pipelines.plan --check results/training.csv [--page results/planner.md]   # predicted beside measured
    python -m pipelines.plan --authors results              # the same for the paper's own code: a table and a picture

Memory is counted from sizes (`pipelines.planner.memory`), time from rates (`pipelines.planner.seconds`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from cutrec import config as params
from cutrec.console import prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.errors import StageError
from cutrec.nested import merged, parse_overrides
from cutrec.reporting import results_file as results
from pipelines.paper import points
from pipelines.planner import calibration as planner_calibration
from pipelines.planner import fit as planner_fit
from pipelines.planner.calibration import Calibration
from pipelines.planner.plans import check, held_out, plan, table_of, with_points


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, refit or check."""
    options = _parse(arguments)
    calibration = planner_calibration.load()
    if options.page:
        prepare_output_file("--page", options.page)
    if options.authors:
        prepare_output_folder("--authors", options.authors)
        from pipelines.planner.authors_report import write

        print(write(options.authors))
    elif options.refit:
        _refit(options.refit, calibration)
    elif options.check:
        found = _read(options.check)
        measured = _on_gpus(found)
        text, memory, time = check(measured, calibration)
        if not memory:
            raise StageError("--check: found no point of the paper's tables measured on a GPU, allowed: one or more")
        said = [*_errors(memory, time), *_left_out(len(measured), len(memory))]
        said += _out_of_memory(found, calibration)
        if len({result.dataset for result in measured}) > 1:
            without = "constants fitted without the point's data set"
            said += [f"{without}: {line}" for line in _errors(*held_out(measured))]
        print("\n".join([text, "", *said, _source(calibration)]))
        if options.page:
            title = (
                "# The planner beside measured runs\n\nPredicted for the batches that were measured. "
                "`pipelines.plan` counts the largest batch of a whole epoch, which takes up to a fifth more in CE."
            )
            options.page.write_text("\n\n".join([title, *said, _source(calibration), text]) + "\n", encoding="utf-8")
    else:
        wanted = _points(options)
        print(table_of([plan(point, calibration) for point in wanted], options.gpu))
        for line in points.without_use(wanted, options.extra):
            print(f"note: {line}")
        print(f"\nGiB of a GPU with {options.gpu:g}; {_source(calibration)}")


def _points(options: argparse.Namespace) -> list[params.Params]:
    values = points.load()
    common = {"sharing": options.sharing, "paper_faithful": options.faithful, "extra": options.extra}
    if options.search:
        dataset, *others = options.dataset or ["beauty"]
        if others:
            raise params.ParamsError(f"--dataset: found {len(others) + 1} of them, allowed: one with --search")
        found = points.search_points(values, model=options.model, loss=options.loss, dataset=dataset, **common)
        return [point.params for point in found]
    if options.table:
        found = points.table_points(values, options.table, datasets=options.dataset or [], **common)
        return [point.params for point in points.distinct(found)]
    named = [{"dataset": dataset} for dataset in options.dataset or []]
    return [params.from_mapping(merged(values, dataset, options.extra)) for dataset in named or [{}]]


def _errors(memory: Sequence[float], time: Sequence[float]) -> list[str]:
    return [
        f"{name}: {sum(abs(error) <= 0.1 for error in found)} of {len(found)} within 10 %, "
        f"median {statistics.median(map(abs, found)):.1%}"
        for name, found in (("memory", memory), ("time", time))
    ]


def _source(calibration: Calibration) -> str:
    memory = calibration.measured_on or "counted, not fitted to a measured run"
    time = (
        calibration.time_measured_on
        or "rates of an H100 with dates (pipelines/planner/seconds.py), not fitted to results here"
    )
    return f"memory: {memory}; time: {time}"


def _out_of_memory(found: Sequence[results.Result], calibration: Calibration) -> list[str]:
    """A line a point that did not fit the GPU that it was tried on."""
    return [
        f"ran out of memory on {result.device}: {points.experiment_name(point)}, "
        f"predicted {plan(point, calibration).memory.peak:.3g} GiB"
        for point, result in with_points([result for result in found if result.status == "out of memory"])
    ]


def _left_out(measured: int, used: int) -> list[str]:
    left = measured - used
    return [f"{left} rows are no points of the paper's tables and left out"] if left else []


def _read(paths: Sequence[Path]) -> list[results.Result]:
    for path in paths:
        if not path.is_file():
            raise StageError(f"{path}: no such file, allowed: results of `python -m pipelines.measure`")
    return results.merge(results.read(path) for path in paths)


def _on_gpus(found: Sequence[results.Result]) -> list[results.Result]:
    """Training measured on GPUs: a CPU's memory and time are none of the planner's business."""
    return [
        result
        for result in found
        if result.status == "ok"
        and result.kind == "training"
        and result.peak_loop_gib
        and result.step_ms
        and not result.device.startswith("cpu")
    ]


def _refit(paths: Sequence[Path], calibration: Calibration) -> None:
    measured = _on_gpus(_read(paths))
    devices = sorted({result.device for result in measured})
    if len(devices) != 1:
        raise StageError(f"--refit: found results of {devices or 'no GPU'}, allowed: those of one kind of GPU")
    pairs = with_points(measured)
    if len(pairs) < planner_fit.FEWEST:
        raise StageError(f"--refit: found {len(pairs)} measured points, allowed: {planner_fit.FEWEST} or more")
    revisions = sorted({str(result.revision) for _, result in pairs})
    by = f"{len(pairs)} points on {devices[0]}, revision {', '.join(revisions)}"
    planner_calibration.save(planner_fit.refit(pairs, calibration, by=by))
    print("\n".join([f"{planner_calibration.PATH.name}: fitted to {by}", *_left_out(len(measured), len(pairs))]))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.plan", description=str(__doc__).splitlines()[0])
    parser.add_argument("--gpu", type=float, default=80.0, help="GiB of the GPU")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", type=int, action="append", help="of the paper; may be given several times")
    what.add_argument("--search", action="store_true", help="the paper's search grid of --model, --loss, --dataset")
    what.add_argument("--refit", type=Path, nargs="+", metavar="CSV", help="fit the constants to measured runs")
    what.add_argument("--check", type=Path, nargs="+", metavar="CSV", help="predicted beside measured")
    what.add_argument("--authors", type=Path, metavar="FOLDER", help="the paper's own log beside a model of its code")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write --check as a page of markdown")
    parser.add_argument("--dataset", action="append", help="of the table, the search or the present point")
    parser.add_argument("--sharing", choices=["none", "tile", "batch"], help="who shares negatives: none")
    parser.add_argument("--faithful", action="store_true", help="with the defects of the paper's code")
    parser.add_argument("--model", choices=["sasrec", "bert4rec"], help="of the search: sasrec")
    parser.add_argument("--loss", help="of the search: cce_neg")
    parser.add_argument("-S", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="over the points")
    options = parser.parse_args(arguments)
    if options.gpu <= 0:
        parser.error("--gpu: allowed: GiB above 0")
    _refuse_idle(parser, options)
    options.sharing, options.model = options.sharing or "none", options.model or "sasrec"
    options.loss = options.loss or "cce_neg"
    options.extra = parse_overrides(options.extra)
    return options


def _refuse_idle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Say so where an option would be of no effect."""
    points_asked = options.search or options.table
    for name, key, allowed, where in (
        ("model", "model", options.search, "--search"),
        ("loss", "loss", options.search, "--search"),
        ("sharing", "negatives.sharing", points_asked, "--table or --search"),
        ("faithful", "paper_faithful", points_asked, "--table or --search"),
    ):
        if getattr(options, name) and not allowed:
            parser.error(f"--{name}: allowed with {where}; -S {key}=... changes a point")
    if options.page and not options.check:
        parser.error("--page: allowed with --check")


if __name__ == "__main__":
    run_and_exit(main)
