"""What a loss is made of; part of `rec_models.settings`. This module imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from rec_models.checks import SettingsError, flag, number, one_of, require, whole_from

LossName = Literal["ce", "ce_neg", "cce", "cce_neg", "bce", "bce_neg", "gbce", "sce"]

FULL_LOSSES: tuple[str, ...] = ("ce", "cce")
SAMPLED_LOSSES: tuple[str, ...] = ("ce_neg", "cce_neg", "bce", "bce_neg", "gbce")
LOSSES: tuple[str, ...] = get_args(LossName)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss and everything it depends on. What a loss has no use for stays None; giving it is refused.

    `LossSettings.pick` takes all settings and keeps those that the loss uses: the way in for sweeps over losses.
    """

    loss: LossName = "cce_neg"
    """Which loss; see the files of `rec_models.losses`."""
    num_negatives: int | None = None
    """Negatives a token. Needed by ``ce_neg``, ``cce_neg``, ``bce_neg`` and ``gbce``; ``bce`` takes 1 (or None)."""
    sampling: Literal["uniform", "popularity", "in_batch"] | None = None
    """The distribution that negatives come from; None is uniform."""
    alpha: float | None = None
    """Popularity sampling: q is proportional to ``count ** alpha``; None is 1."""
    logq: bool | None = None
    """Popularity or in-batch sampling under a softmax: correct scores by log q; None is True (False if faithful)."""
    sharing: Literal["none", "tile", "batch"] | None = None
    """Who shares one set of negatives: nobody, ``tile_tokens`` consecutive tokens, or the batch; None is none."""
    tile_tokens: int | None = None
    """Tokens that share a set under ``sharing="tile"``; None is 64."""
    gbce_t: float | None = None
    """gBCE: calibration from 0 (plain BCE) to 1 (fully calibrated); None is 0.75."""
    sce_buckets: int | None = None
    """SCE: random bucket centres; None is 443."""
    sce_bucket_size_x: int | None = None
    """SCE: tokens a bucket; None is 443."""
    sce_bucket_size_y: int | None = None
    """SCE: items a bucket; None is 512."""
    sce_mix_x: bool | None = None
    """SCE: centres are random mixtures of the batch's tokens, not plain noise; None is True."""
    impl: Literal["auto", "triton", "reference"] | None = None
    """Losses of cce_kernels: which implementation; None is auto, by device."""
    paper_faithful: bool = False
    """Repeat the known defects of the paper's own code, to compare with its tables."""

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        used = used_by(self.loss)
        for name in _LOSS_OPTIONS:
            found = getattr(self, name)
            if found is not None and name not in used:
                raise SettingsError(
                    f"{name}: found {found!r}, allowed: None, because loss={self.loss} has no use for it"
                )
        flag("paper_faithful", self.paper_faithful)
        for name in ("logq", "sce_mix_x"):
            if getattr(self, name) is not None:
                flag(name, getattr(self, name))
        self._check_negatives()
        self._fill_defaults(used)
        for name in ("sce_buckets", "sce_bucket_size_x", "sce_bucket_size_y", "tile_tokens"):
            if getattr(self, name) is not None:
                whole_from(name, getattr(self, name), 1)
        self._check_sampling()
        if self.gbce_t is not None:
            number("gbce_t", self.gbce_t, lambda share: 0 <= share <= 1, "a number from 0 to 1")
        if self.impl is not None:
            one_of("impl", self.impl, ("auto", "triton", "reference"))

    def _check_negatives(self) -> None:
        if self.loss == "bce":
            require("num_negatives", self.num_negatives, self.num_negatives in (None, 1), "1 or None with loss=bce")
            object.__setattr__(self, "num_negatives", 1)
        elif self.loss in SAMPLED_LOSSES:
            whole_from("num_negatives", self.num_negatives, 1)

    def _fill_defaults(self, used: frozenset[str]) -> None:
        for name, value in _LOSS_DEFAULTS.items():
            if name in used and getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.sharing == "tile" and self.tile_tokens is None:
            object.__setattr__(self, "tile_tokens", 64)
        if self.sampling == "popularity" and self.alpha is None:
            object.__setattr__(self, "alpha", 1.0)
        if "logq" in used and self.sampling in ("popularity", "in_batch") and self.logq is None:
            object.__setattr__(self, "logq", not self.paper_faithful)

    def _check_sampling(self) -> None:
        if self.sampling is None or self.sharing is None:
            return
        one_of("sampling", self.sampling, ("uniform", "popularity", "in_batch"))
        one_of("sharing", self.sharing, ("none", "tile", "batch"))
        require(
            "tile_tokens",
            self.tile_tokens,
            self.tile_tokens is None or self.sharing == "tile",
            "None unless sharing=tile",
        )
        require("tile_tokens", self.tile_tokens, (self.tile_tokens or 1) <= 1024, "at most 1024")
        require(
            "alpha", self.alpha, self.alpha is None or self.sampling == "popularity", "None unless sampling=popularity"
        )
        if self.alpha is not None:
            number("alpha", self.alpha, lambda power: 0 <= power < math.inf, "a number from 0")
        require(
            "logq",
            self.logq,
            self.logq is None or self.sampling != "uniform",
            "None with sampling=uniform: q is constant",
        )
        if self.paper_faithful:
            require("logq", self.logq, not self.logq, "False with paper_faithful: the paper does not correct by log q")
            require(
                "sharing", self.sharing, self.sharing == "none", "none with paper_faithful: the paper shares nothing"
            )

    def check_catalogue(self, num_items: int, num_counts: int | None) -> None:
        """Refuse what contradicts the catalogue, before anything is trained.

        Args:
            num_items: V.
            num_counts: how many item counts there are; None: no counts.

        Raises:
            SettingsError: gBCE with more negatives than other items, or popularity sampling without V counts.
        """
        if self.loss == "gbce" and self.num_negatives is not None:
            allowed = f"at most {num_items - 1} with loss=gbce and {num_items} items"
            require("num_negatives", self.num_negatives, self.num_negatives < num_items, allowed)
        if self.sampling == "popularity":
            require("item_counts", num_counts, num_counts == num_items, f"{num_items} counts, for sampling=popularity")

    @classmethod
    def pick(cls, loss: str, **settings: Any) -> Self:
        """Keep what this loss uses of a full set of settings: one command line can then sweep over losses.

        Args:
            loss: the loss.
            settings: any fields of this class; those that the loss (or its sampling or sharing) has no use for are
                dropped.

        Raises:
            SettingsError: an unknown setting, or a value out of range.
        """
        known = {entry.name for entry in fields(cls)}
        for name in settings:
            require("setting", name, name in known, ", ".join(sorted(known)))
        one_of("loss", loss, LOSSES)
        used = used_by(loss) | {"paper_faithful"}
        kept = {name: value for name, value in settings.items() if name in used}
        if loss == "bce":
            kept.pop("num_negatives", None)
        if kept.get("sampling") in (None, "uniform"):
            kept.pop("alpha", None)
            kept.pop("logq", None)
        elif kept["sampling"] == "in_batch":
            kept.pop("alpha", None)
        if kept.get("paper_faithful"):
            kept.pop("logq", None)
            kept.pop("sharing", None)
        if kept.get("sharing") != "tile":
            kept.pop("tile_tokens", None)
        return cls(loss=loss, **kept)  # type: ignore[arg-type]  # checked by one_of


_SAMPLING_OPTIONS = frozenset({"num_negatives", "sampling", "alpha", "sharing", "tile_tokens"})
_SCE_OPTIONS = frozenset({"sce_buckets", "sce_bucket_size_x", "sce_bucket_size_y", "sce_mix_x"})
_LOSS_OPTIONS = _SAMPLING_OPTIONS | _SCE_OPTIONS | {"logq", "gbce_t", "impl"}
_LOSS_DEFAULTS: Mapping[str, Any] = {
    "sampling": "uniform",
    "sharing": "none",
    "gbce_t": 0.75,
    "sce_buckets": 443,
    "sce_bucket_size_x": 443,
    "sce_bucket_size_y": 512,
    "sce_mix_x": True,
    "impl": "auto",
}
_USED: Mapping[str, frozenset[str]] = {
    "ce": frozenset(),
    "cce": frozenset({"impl"}),
    "ce_neg": _SAMPLING_OPTIONS | {"logq"},
    "cce_neg": _SAMPLING_OPTIONS | {"logq", "impl"},
    "bce": _SAMPLING_OPTIONS | {"impl"},
    "bce_neg": _SAMPLING_OPTIONS | {"impl"},
    "gbce": _SAMPLING_OPTIONS | {"impl", "gbce_t"},
    "sce": _SCE_OPTIONS,
}


def used_by(loss: str) -> frozenset[str]:
    """The names of the options of `LossSettings` that a loss uses."""
    return _USED[loss]
