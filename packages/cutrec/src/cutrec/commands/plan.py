"""Predict memory and time of training before anything runs: will it fit, and how long will it take?

The run is the one that params.yaml describes, with the given changes (written as for ``dvc exp run -S``). A published
log has the sizes of its synthetic twin; the demo and a log of your own are read from ``data/split``.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cutrec.config import from_mapping, read_yaml
from cutrec.nested import merged, parse_overrides
from cutrec.workflow.outputs import StageError
from cutrec.workflow.plan import plan, source_of, table_of


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "changes of params.yaml: loss=..., batch_size=..., ..."
    parser.add_argument("changes", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--gpu", type=float, default=80.0, help="GiB of the GPU (default: 80)")
    text = "the log; may be given several times (default: that of params.yaml)"
    parser.add_argument("--dataset", action="append", help=text)


def run(options: Namespace) -> None:
    """Read params.yaml, apply the changes and print the predictions."""
    if options.gpu <= 0:
        raise StageError(f"--gpu: found {options.gpu:g}, allowed: GiB above 0")
    from rec_models.planning import load

    values = merged(read_yaml(Path("params.yaml")), parse_overrides(options.changes, "change"))
    named = [{"dataset": dataset} for dataset in options.dataset or []]
    configs = [from_mapping(merged(values, dataset)) for dataset in named or [{}]]
    calibration = load()
    plans = {
        f"{config.dataset}: {config.model}, {config.loss}, {config.batch_size} x {config.max_seq_len}": plan(
            config, calibration
        )
        for config in configs
    }
    print(table_of(plans, options.gpu))
    print(f"\nGiB of a GPU with {options.gpu:g}; {source_of(calibration)}")
