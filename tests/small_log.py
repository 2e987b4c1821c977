"""A small log with something to learn, a folder that looks like a repository, and what in it names a user."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutrec.config import read_yaml

ROOT = Path(__file__).parents[1]


def small_log(users: int = 150, items: int = 40, seed: int = 0) -> pl.DataFrame:
    """Users walk round a ring of items, mostly one step at a time; times are Unix seconds over some 200 days."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        length = int(random.integers(6, 16))
        steps = np.where(random.random(length) < 0.8, 1, random.integers(2, items, length))
        places = (int(random.integers(items)) + np.cumsum(steps)) % items
        start = 1_700_000_000 + int(random.integers(0, 200 * 86_400))
        times = start + np.cumsum(random.integers(600, 40_000, length))
        rows += [(user, 1000 + int(item), int(time)) for item, time in zip(places, times, strict=True)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def write_params(folder: Path, overrides: dict[str, Any]) -> None:
    """Write the shipped params.yaml with these overrides into a folder."""
    from ruamel.yaml import YAML

    values = read_yaml(ROOT / "params.yaml")
    for key, value in overrides.items():
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[name] = value
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)


def decoded(path: Path) -> str:
    """All that a file says, as text."""
    return _decoded(path.suffix, path.read_bytes())


@lru_cache(maxsize=1000)
def _decoded(suffix: str, content: bytes) -> str:
    if suffix == ".parquet":
        table = pq.read_table(pa.BufferReader(content))
        return f"{table.to_pydict()} {table.schema.metadata}"
    if suffix == ".arrow":
        with pa.ipc.open_file(content) as reader:
            return f"{reader.read_all().to_pydict()} {reader.schema.metadata}"
    return content.decode(errors="replace")


def naming(folder: Path, user: str) -> list[str]:
    """The files below a folder that name a user."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and user in decoded(path)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Make the current directory a folder with a params.yaml of the shipped values and these overrides."""

    def make(overrides: dict[str, Any]) -> Path:
        write_params(tmp_path, overrides)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make
