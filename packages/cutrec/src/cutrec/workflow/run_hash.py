"""What a checkpoint belongs to: the settings that training reads, the split, and the code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from cutrec import config
from cutrec.workflow import outputs as stage

SEQUENCES = stage.DATA / "split" / "sequences"
CODE = (
    "packages/*/src/**/*.py",
    "packages/cutrec/src/cutrec/workflow/training_inputs.py",
    "packages/cutrec/src/cutrec/workflow/ranking.py",
    "packages/cutrec/src/cutrec/config.py",
    "pipelines/train.py",
)


def run_hash(point: config.Config) -> str:
    """What a checkpoint belongs to: the settings that training reads, the split, and the code."""
    settings = dataclasses.asdict(point)
    for section in ("dataset", "download", "split"):  # they reach training through the split's files
        del settings[section]
    settings["evaluate"] = {"filter_seen": point.evaluate.filter_seen}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    code = sorted(path for pattern in CODE for path in Path().glob(pattern))
    for path in [*code, *sorted(SEQUENCES.iterdir()), stage.DATA / "split" / "items.parquet"]:
        with path.open("rb") as file:
            digest.update(f"{path.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]
