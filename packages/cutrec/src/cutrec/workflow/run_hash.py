"""The identity of a training run: the settings that training reads, the split and the code."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from cutrec.checksums import stage_errors
from cutrec.config_point import Config
from rec_data.sequences.subsets import head_of

PACKAGES = ("cce_kernels", "cutrec", "rec_data", "rec_eval", "rec_models")
NOT_READ = ("cutrec/commands/", "cutrec/recommender.py", "cutrec/recommending/", "cutrec/reporting/")
"""The code of the packages that training does not read."""
SUBSETS = ("train", "validation")
"""What training reads of a split."""


def run_hash(config: Config, split: Path, code: Mapping[str, Path] | None = None, start: Path | None = None) -> str:
    """The name of the folder that the checkpoints of a run are kept in; `code` holds files by name.

    `start` is the file of the model that ``train.init_from`` names: its content counts, and its place does not.

    The configuration must be decided: a value that was ``auto`` and the same one in params.yaml are one run. Sections
    that reach training only through the files of the split are left out. Other processes that together have the same
    batch are the same run. A store counts by its metadata, with the checksum that training compares when it opens it.

    Raises:
        StageError: a file of the split is no store.
    """
    settings = dataclasses.asdict(config)
    settings["batch_size"] *= settings["train"].pop("devices")
    del settings["train"]["table"]
    for section in ("dataset", "download", "split", "split_folder", "report", "undecided"):
        del settings[section]
    for key in ("init_from", "tracker"):
        del settings["train"][key]
    settings["evaluate"] = {"filter_seen": config.evaluate.filter_seen}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    code = training_code() if code is None else code
    sequences = split / "sequences"
    with stage_errors(split):
        for path in sorted(sequences.rglob("*.arrow")):
            name = path.relative_to(sequences).as_posix()
            if name.startswith(SUBSETS):
                digest.update(f"{name} {sorted(head_of(path).items())}".encode())
    data = {"items.parquet": split / "items.parquet"}
    data |= {} if start is None else {"init_from": start}
    for name, path in [*sorted(code.items()), *data.items()]:
        with path.open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def training_code() -> dict[str, Path]:
    """The source files of all packages by name, except those that training does not read."""
    folders = [Path(str(files(package))) for package in PACKAGES]
    code = {path.relative_to(folder.parent).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    return {name: path for name, path in code.items() if not name.startswith(NOT_READ)}
