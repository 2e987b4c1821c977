"""What the tests of ``cutrec recommend`` share."""

import dataclasses
from pathlib import Path

import polars as pl

from cutrec import config
from cutrec.cli import execute
from cutrec.config_point import Config
from rec_models.inference import load
from rec_models.inference import recommend as rank_all


def decided(params: Path = Path("params.yaml")) -> Config:
    """The point of params.yaml, with the defaults of `Config` where that says auto."""
    return dataclasses.replace(config.load(params), undecided=())


def run(*arguments: str) -> pl.DataFrame:
    execute(["recommend", "--out", "out/top.parquet", *arguments])
    assert not list(Path("out").glob("*.part"))
    return pl.read_parquet("out/top.parquet")


def expected(histories: dict[object, list[int]], k: int, **options: bool) -> list[tuple[object, int, int]]:
    """The same by the library's own ranking: (user, item, rank), original ids."""
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    lists = [[names.index(item) for item in history if item in names] for history in histories.values()]
    found = rank_all(load("data/train/model.safetensors"), lists, k, **options).items.tolist()
    return [
        (user, names[item], rank)
        for user, items in zip(histories, found, strict=True)
        for rank, item in enumerate(items, start=1)
        if item >= 0
    ]
