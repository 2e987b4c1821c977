"""What a loss is made of: the sections of params.yaml, and the settings that a checkpoint keeps. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from rec_models.errors import SettingsError
from rec_models.fields import STRICT, Count, NotNegative, one_of
from rec_models.losses.registry import LOSSES, SAMPLER_OPTIONS, SAMPLERS

LossName = Annotated[str, one_of(LOSSES)]
Sampling = Annotated[str, one_of(SAMPLERS)]
Sharing = Literal["none", "tile", "batch"]
TileTokens = Annotated[int, Field(ge=1, le=1024)]
CatalogueShare = Annotated[float, Field(ge=0.01, le=0.95)]
Calibration = Annotated[float, Field(ge=0, le=1)]
Impl = Literal["auto", "triton", "reference"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Negatives:
    """How the negatives of a sampled loss are drawn."""

    sampling: Sampling = "uniform"
    """The distribution q that negatives come from: uniform, popularity or in_batch; mixed is in_batch and uniform,
    mixed_popularity is in_batch and popularity."""
    alpha: NotNegative = 1.0
    """Popularity sampling: q is proportional to ``count ** alpha``."""
    catalogue_share: CatalogueShare = 0.5
    """Mixed sampling: the share of draws that come from the catalogue, and not from the batch."""
    logq: bool = True
    """Sampled softmax, unless sampling is uniform: correct scores by log q. False: by the uniform constant, as the
    paper does."""
    sharing: Sharing = "tile"
    """Which tokens share one set of negatives: none, ``tile_tokens`` consecutive ones, or all of the batch."""
    tile_tokens: TileTokens = 64
    """Tokens that share a set when ``sharing`` is ``tile``."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gbce:
    """Generalised binary cross-entropy."""

    t: Calibration = 0.75  # calibration from 0 (plain BCE) to 1 (fully calibrated)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sce:
    """Sizes of the scalable cross-entropy."""

    buckets: Count = 443  # random bucket centres
    bucket_size_x: Count = 443  # tokens per bucket
    bucket_size_y: Count = 512  # items per bucket
    mix_x: bool = True  # bucket centres are random mixtures of the batch's tokens instead of plain noise


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Losses:
    """Settings that belong to one loss only."""

    gbce: Gbce = field(default_factory=Gbce)
    sce: Sce = field(default_factory=Sce)


def options_of(negatives: Negatives, losses: Losses) -> dict[str, Any]:
    """The two sections as options of `LossSettings`, such as ``sampling`` and ``sce_buckets``."""
    own = {f"{loss}_{name}": value for loss, section in vars(losses).items() for name, value in vars(section).items()}
    return {**vars(negatives), **own}


_DEFAULTS: Mapping[str, Any] = options_of(Negatives(sharing="none"), Losses()) | {"num_negatives": None, "impl": "auto"}
_DEPENDS_ON = {"tile_tokens": "sharing", "alpha": "sampling", "catalogue_share": "sampling", "logq": "sampling"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossSettings:
    """The loss and what it uses of the sections above, flat as checkpoints keep it. An option without a use is None.

    Giving an option that the loss has no use for is refused; one that it uses and that is not given takes the default
    of its section (but ``sharing`` none). `pick` takes all options and keeps those that the loss uses.
    """

    loss: LossName = "cce_neg"  # a name of `rec_models.losses.LOSSES`
    num_negatives: Count | None = None  # negatives per token; ``bce`` takes 1
    sampling: Sampling | None = None
    alpha: NotNegative | None = None
    catalogue_share: CatalogueShare | None = None
    logq: bool | None = None
    sharing: Sharing | None = None
    tile_tokens: TileTokens | None = None
    gbce_t: Calibration | None = None
    sce_buckets: Count | None = None
    sce_bucket_size_x: Count | None = None
    sce_bucket_size_y: Count | None = None
    sce_mix_x: bool | None = None
    impl: Impl | None = None  # losses of cce_kernels: which implementation; ``auto``: by device
    paper_faithful: bool = False  # repeat the known defects of the paper's own code, to compare with its tables

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: ArgsKwargs) -> dict[str, Any]:
        values = dict(given.kwargs or {})
        spec = LOSSES.get(str(values.get("loss", cls.loss)))
        defaults = {**_DEFAULTS, "logq": not values.get("paper_faithful")}
        defaults["num_negatives"] = spec.fixed_negatives if spec else None
        return values | {name: defaults[name] for name in _used(values) if values.get(name) is None}

    def __post_init__(self) -> None:
        values, spec = vars(self), LOSSES[self.loss]
        used = _used(values)
        for name in set(_DEFAULTS) - used:
            if values[name] is not None:
                reason = _DEPENDS_ON.get(name, "loss") if name in spec.options else "loss"
                raise SettingsError(name, values[name], "None, because it is not used", **{reason: values[reason]})
        if spec.sampled and (self.num_negatives is None or spec.fixed_negatives not in (None, self.num_negatives)):
            allowed = str(spec.fixed_negatives or "a whole number from 1")
            raise SettingsError("num_negatives", self.num_negatives, allowed, loss=self.loss)
        if self.paper_faithful:
            for name, faithful in (("logq", False), ("sharing", "none")):
                if values[name] not in (None, faithful):
                    raise SettingsError(name, values[name], str(faithful), paper_faithful=True)

    def check_catalogue(self, num_items: int, num_counts: int | None) -> None:
        """Refuse what contradicts a catalogue of V items with so many item counts (None: no counts).

        Raises:
            SettingsError: gBCE with more negatives than other items, or popularity sampling without V counts.
        """
        if self.gbce_t is not None and self.num_negatives is not None and self.num_negatives >= num_items:
            allowed = f"at most {num_items - 1} of {num_items} items"
            raise SettingsError("num_negatives", self.num_negatives, allowed, loss=self.loss)
        if self.sampling is not None and SAMPLERS[self.sampling].needs_counts and num_counts != num_items:
            raise SettingsError("item_counts", num_counts, f"{num_items} counts", sampling=self.sampling)

    @classmethod
    def pick(cls, loss: str, **options: Any) -> Self:
        """Keep what this loss uses of a full set of options: one command line can then sweep over losses.

        The options are any fields of this class; those that the loss, its sampling or sharing does not use are dropped.

        Raises:
            ValueError: an unknown option, or a value out of range.
        """
        kept = {"loss": loss, **options}
        if loss in LOSSES and LOSSES[loss].fixed_negatives:
            kept["num_negatives"] = None
        if kept.get("paper_faithful"):
            kept |= {"logq": None, "sharing": None}
        dropped = set(_DEFAULTS) - _used(kept)
        return cls(**{name: value for name, value in kept.items() if name not in dropped})


def _used(values: Mapping[str, Any]) -> frozenset[str]:
    """The options that a loss uses, given its sampling and sharing."""
    spec = LOSSES.get(str(values.get("loss", LossSettings.loss)))
    if spec is None or not spec.sampled:
        return frozenset() if spec is None else spec.options
    sampler = SAMPLERS.get(str(values.get("sampling") or "uniform"))
    unused = SAMPLER_OPTIONS - (sampler.options if sampler else frozenset())
    return spec.options - unused - (frozenset() if values.get("sharing") == "tile" else {"tile_tokens"})
