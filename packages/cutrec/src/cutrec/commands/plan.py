"""Predict memory and time of training before anything runs: will it fit, and how long will it take?

The run is the one that params.yaml describes, with the given changes, written with or without ``-S`` as for
``dvc exp run -S``. A published log has the sizes of its synthetic twin; the demo and a log of your own are read from
``data/split``.

Example:
    uv run cutrec plan -S loss=cce_neg -S batch_size=512 --dataset gowalla --gpu 24
    uv run cutrec plan -S loss=cce_neg -S train.cuda_graphs=true --dataset zvuk --devices 2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import positive_float, positive_int
from cutrec.config import from_mapping, read_yaml
from cutrec.config_point import Config
from cutrec.errors import ConfigError
from cutrec.nested import merged, parse_overrides
from cutrec.paths import PARAMS
from cutrec.reporting.text_table import number, render

if TYPE_CHECKING:
    from cutrec.workflow.plan import Plan
    from rec_models.planning import Calibration

HEADER = (
    "point", "items", "tokens", "state", "gradients", "activations", "loss", "peak GiB", "fits", "host ms", "GPU ms",
    "step ms", "epoch s",
)  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "changes of params.yaml: loss=..., batch_size=..., ..."
    parser.add_argument("changes", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("-S", dest="more_changes", action="append", metavar="KEY=VALUE", help="the same")
    parser.add_argument("--gpu", type=positive_float, default=80.0, help="GiB of the GPU (default: 80)")
    text = "the log; may be given several times (default: that of params.yaml)"
    parser.add_argument("--dataset", action="append", help=text)
    text = "GPUs of one training, each with a batch: the item table replicated, and sharded where that is possible"
    parser.add_argument("--devices", type=positive_int, help=f"{text} (default: train.devices of params.yaml)")


def run(options: Namespace) -> None:
    """Read params.yaml, apply the changes and print the predictions."""
    from rec_models.planning import load

    changes = [*options.changes, *(options.more_changes or [])]
    values = merged(read_yaml(PARAMS), parse_overrides(changes))
    named = [{"dataset": dataset} for dataset in options.dataset or []]
    configs = [from_mapping(merged(values, dataset)) for dataset in named or [{}]]
    calibration = load()
    plans = {}
    for config in configs:
        for planned in plans_of(config, options.devices, calibration):
            point = planned.point
            name = f"{point.dataset}: {point.model}, {point.loss}, {point.batch_size} x {point.max_seq_len}"
            if point.train.devices > 1:
                name += f", {point.train.devices} GPUs, {point.train.table}"
            plans[name] = planned
    print(table_of(plans, options.gpu))
    print(f"\nGiB of a GPU with {options.gpu:g}; {source_of(calibration)}")
    if any(planned.seconds.exchange for planned in plans.values()):
        print(
            "tokens and memory are those of each GPU; exchanges at the rate of two H200s over NVLink, one after another"
        )


def plans_of(config: Config, devices: int | None, calibration: Calibration) -> list[Plan]:
    """The plan of a point, or with several devices those of a replicated table and of a sharded one."""
    from cutrec.workflow.plan import plan

    devices = devices or config.train.devices
    if devices == 1:
        return [plan(config, calibration)]
    found = []
    for table in ("replicated", "sharded"):
        chosen = replace(config, train=replace(config.train, devices=devices, table=table))
        try:
            found.append(plan(chosen, calibration))
        except ConfigError:
            if table == "replicated":
                raise
    return found


def table_of(plans: Mapping[str, Plan], gpu_gib: float) -> str:
    """Plans by the name in the first column as a table, for a GPU with so much memory."""
    rows = []
    for name, planned in plans.items():
        sizes, memory, seconds = planned.sizes, planned.memory, planned.seconds
        parts = (memory.state, memory.gradients, memory.activations, memory.loss, memory.peak)
        gib = [number(part) for part in parts]
        milliseconds = [number(1e3 * part) for part in (seconds.host, seconds.device, seconds.step)]
        fits = "yes" if memory.fits(gpu_gib) else "NO"
        first = (name, f"{sizes.items:,}", f"{sizes.tokens:,.0f}")
        rows.append([*first, *gib, fits, *milliseconds, number(planned.epoch_seconds)])
    return render(HEADER, rows)


def source_of(calibration: Calibration) -> str:
    """What the constants were measured on, in one line."""
    memory = calibration.measured_on or "counted, not fitted to a measured run"
    usual = "dated rates of an H100 (rec_models/planning/seconds.py), not fitted to results here"
    fused = "" if calibration.fused_seconds else "; with the fused network an H200 (rec_models/planning/seconds.py)"
    return f"memory: {memory}; time: {calibration.time_measured_on or usual}{fused}"
