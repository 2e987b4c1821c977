"""The settings of the paper: what its tables are trained with, beside what a row of a table names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from cutrec import config
from cutrec.config import ConfigError
from cutrec.nested import merged
from cutrec.reporting.standard_settings import sce_sizes
from rec_models.losses.registry import LOSSES

Sharing = Literal["none", "tile", "batch"]
_DERIVED_FROM = ("model", "loss", "batch_size", "max_seq_len")
"""The paper derives other settings from these."""
_WAYS = frozenset({"compile", "cuda_graphs", "impl", "optimizer"})
"""Options of a result that say how it was computed; the others say what was trained and tested."""


class Choices(TypedDict, total=False):
    """What a command may change about the points of the paper's tables."""

    twin: bool | float
    """Take synthetic logs of the data sets' published shapes; a number is their scale."""
    sharing: Sharing
    """Which tokens share negatives; in the paper each token has its own."""
    paper_faithful: bool
    """Repeat the defects of the paper's code."""
    extra: dict[str, Any]
    """Nested values that override everything else."""


def with_paper_settings(file: Mapping[str, Any], row: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """A row of a table as the nested overrides of params.yaml that train it as the paper does.

    Args:
        file: the mapping of params.yaml, with its ``grid`` and its presets.
        row: what the table names: model, loss, data set, sizes, negatives, sampling.
        choices: see `Choices`.

    Raises:
        ConfigError: negatives are to be shared in the paper's own code, or a value is not allowed.
    """
    sharing, faithful = choices.get("sharing", "none"), choices.get("paper_faithful", False)
    extra, twin = choices.get("extra", {}), choices.get("twin", False)
    # What the paper derives from these follows the values of the command line.
    named = config.from_mapping({key: extra.get(key, row[key]) for key in _DERIVED_FROM})
    # The preset's values are written out, and the preset is switched off: another one in the params.yaml of the
    # checkout would contradict the point.
    settings = merged(file["grid"]["settings"], {"preset": config.NO_PRESET}, file["presets"][f"paper_{named.model}"])
    options: dict[str, Any] = {"paper_faithful": faithful}
    if LOSSES[named.loss].sampled:
        if faithful and sharing != "none":
            raise ConfigError(f"sharing: found {sharing!r}, allowed: none with --faithful, the paper shares nothing")
        options["negatives"] = {"sampling": "uniform", "sharing": sharing}
    if named.loss == "sce":
        sizes = sce_sizes(named.batch_size, named.max_seq_len)
        options["losses"] = {"sce": {"buckets": sizes.buckets, "bucket_size_x": sizes.bucket_size_x}}
    dataset = row["dataset"]
    if twin:
        dataset = f"twin:{dataset}" + ("" if twin is True or twin == 1 else f"@{twin:g}")
    return merged(settings, options, row, {"dataset": dataset}, extra)


def is_the_papers_point(options: str | None) -> bool:
    """Whether the options of a result say only how it was computed, so that it trains what the paper trains."""
    return all(entry.partition("=")[0] in _WAYS for entry in (options or "").split(";") if entry)
