"""What a network is made of: the section of params.yaml, and the settings that a checkpoint keeps. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rec_models.encoders.registry import ENCODERS
from rec_models.errors import SettingsError
from rec_models.fields import STRICT, Share, one_of

_FUSED_HEADS = (16, 32, 64, 128)  # widths of heads that the kernels of `rec_models.encoders.fused` take
_FUSED_WIDTH = 1024
ModelName = Annotated[str, one_of(ENCODERS)]
MaxSeqLen = Annotated[int, Field(ge=2, le=1_000_000)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Backbone:
    """The network that turns a history into a vector."""

    blocks: Annotated[int, Field(ge=1, le=1000)] = 2
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1, le=1000)] = 2
    """Attention heads of a block."""
    hidden: Annotated[int, Field(ge=1, le=16_384)] = 64
    """Width of the network and of the item table."""
    dropout: Share = 0.1
    """Share of activations that training sets to zero: of the embeddings, and of what each half of a block adds."""
    attention_dropout: Share = 0.0
    """Share of attention weights that training sets to zero, as SASRec and BERT4Rec were published. Kernels for packed
    histories have no such dropout: above 0, attention (alone) works on padded ones."""
    scale_embeddings: bool = False
    """Multiply item vectors by sqrt(hidden) before positions are added, as SASRec's published code does. Scores use the
    table as it is."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Of the feed-forward nets: ``gelu`` as BERT4Rec was published, ``relu`` as SASRec was."""
    norm: Literal["pre", "post", "query"] = "pre"
    """Where layers are normalized. ``pre``: before each half of a block, as in SASRec's paper, and once at the end.
    ``post``: the embeddings, and after each half of a block, as BERT4Rec was published. ``query``: the whole block of
    SASRec's published code: attention's query is normalized, its keys and values are not; each half is added to its
    normalized input; dropout is inside the feed-forward net and at its end, not behind attention."""
    initialization: Literal["normal", "xavier"] = "normal"
    """The first weights. ``normal``: standard deviation 0.02, biases 0. ``xavier``: Xavier's normal distribution for
    tables and matrices, and the biases of the feed-forward nets uniform up to 1 / sqrt(width), as RePlay's SASRec."""
    mask_prob: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """BERT4Rec: the share of a training sequence that its batches mask. SASRec's batches mask nothing."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise SettingsError("hidden", self.hidden, f"a multiple of {self.heads}", heads=self.heads)

    @property
    def fusible(self) -> bool:
        """Whether `rec_models.encoders.fused` computes such a network in 16 bits on a GPU.

        It takes ``norm=pre``, no dropout of attention weights, and heads as wide as a power of two.
        """
        usual = self.norm == "pre" and self.attention_dropout == 0 and self.hidden <= _FUSED_WIDTH
        return usual and self.hidden // self.heads in _FUSED_HEADS


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings(Backbone):
    """A network and the histories that it reads."""

    model: ModelName = "sasrec"
    """A name of `rec_models.encoders.ENCODERS`: ``sasrec`` looks back only, ``bert4rec`` looks both ways at a history
    with masked items."""
    max_seq_len: MaxSeqLen = 64
    """Longest history; of a longer one the last items are read."""
