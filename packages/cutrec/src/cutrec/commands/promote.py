"""Let a new model take the place of the running one, unless it is worse by more than a margin.

Both are tested on the test users of the new model's split and compared user by user, as by ``cutrec compare``. The new
model is promoted if the difference of the metric is at least minus the margin. RUNNING is a link to the folder of a
model, for `cutrec serve` and others to read; the switch is one rename, and the last three versions stay in
RUNNING.versions. If RUNNING does not exist, the new model is promoted without a comparison.

Prints the decision as JSON. The exit status is 0 if the new model is running now, and 1 if the old one was kept; bad
input also ends with 1, and a line that begins with ``error:``.

Examples:
    uv run cutrec promote data/train /srv/cutrec/running
    uv run cutrec promote data/train /srv/cutrec/running --margin 0.02 --dry-run
"""

from __future__ import annotations

import json
import math
import re
import sys
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file
from cutrec.checksums import checksum
from cutrec.config import load
from cutrec.errors import StageError
from cutrec.paths import MODEL, SPLIT, model_file

if TYPE_CHECKING:
    from cutrec.workflow.promote import Decision


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("new", metavar="NEW", type=local_file, help="the folder of the new model, such as data/train")
    parser.add_argument("running", metavar="RUNNING", type=local_file, help="the link to the running model")
    text = "the share of the metric that the new model may lose (default: 0.01)"
    parser.add_argument("--margin", type=margin, default=0.01, help=text)
    parser.add_argument("--metric", default="ndcg@10", help="METRIC@K of the decision (default: ndcg@10)")
    text = "the split whose users are tested (default: split/ beside NEW)"
    parser.add_argument("--split", type=local_file, help=text)
    text = "where both rank: auto (the default) takes a GPU if there is one"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only decide")


def margin(value: str | float) -> float:
    """The type of ``--margin``: a number from 0 to below 1."""
    with suppress(ValueError):
        if 0 <= (number := float(value)) < 1:
            return number
    raise ArgumentTypeError(f"found {value}, allowed: a number from 0 to below 1, such as 0.01")


def run(options: Namespace) -> None:
    """Compare both models, switch, print the decision, and end with status 1 if the old model was kept."""
    new, running = model_file(options.new), options.running
    if not new.is_file():
        raise StageError(f"NEW: found no {new}, allowed: the folder of a model, such as {MODEL.parent} (dvc repro)")

    from cutrec.workflow import promote

    metric, k = _metric(options.metric)
    if not running.is_symlink() and running.exists() and model_file(running).parent.resolve() == new.parent.resolve():
        raise StageError(f"RUNNING: found {running}, the new model itself, allowed: the path of a link to a copy of it")
    promote.refuse_other(running)
    old = model_file(running)
    if running.is_symlink() and not old.is_file():
        raise StageError(f"RUNNING: found {running} without a model, allowed: a link to one (rm {running} starts over)")
    if not running.is_symlink():
        decision = promote.Decision(True, "there is no running model")
    elif checksum(old) == checksum(new):
        decision = promote.Decision(True, "it is the running model")
    else:
        decision = _compared(options, new, old, metric, k)
    if decision.promote and not options.dry_run:
        promote.switch(new, running)
    print(json.dumps(_as_json(options, decision), indent=2))
    if not decision.promote:
        print(f"kept: {decision.reason}", file=sys.stderr)
        raise SystemExit(1)


def _metric(text: str) -> tuple[str, int]:
    """The metric and the length of the lists that ``--metric`` names."""
    from rec_eval.metrics.accuracy import ACCURACY

    name, _, number = text.partition("@")
    if name not in ACCURACY or not re.fullmatch(r"[1-9][0-9]{0,2}|1000", number, re.ASCII):
        allowed = f"METRIC@K with a metric of {', '.join(ACCURACY)} and K from 1 to 1000"
        raise StageError(f"--metric: found {text!r}, allowed: {allowed}")
    return name, int(number)


def _compared(options: Namespace, new: Path, old: Path, metric: str, k: int) -> Decision:
    """The decision from a test of both models."""
    from cutrec.workflow import promote
    from cutrec.workflow.recommend import choose_device

    split = options.split or new.parent.parent / SPLIT.name
    if not split.is_dir():
        raise StageError(f"--split: found no {split}, allowed: the folder of the split that NEW was trained on")
    return promote.decide(
        load(), new, old, split, choose_device(options.device), metric=metric, k=k, margin=options.margin
    )


def _as_json(options: Namespace, decision: Decision) -> dict[str, Any]:
    """The decision, with the comparison if there was one."""
    word = "promote" if decision.promote else "keep"
    found: dict[str, Any] = {"decision": word, "reason": decision.reason, "dry_run": options.dry_run}
    found |= {"new": str(options.new), "running": str(options.running), "margin": options.margin}
    if (compared := decision.compared) is not None:
        values = {name: value for name, value in compared._asdict().items() if name not in ("name_a", "name_b")}
        values["mean_running"], values["mean_new"] = values.pop("mean_a"), values.pop("mean_b")
        found["tested_on"] = decision.tested_on
        found["comparison"] = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()
        }
    return found
