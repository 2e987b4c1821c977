"""Sort keys: a score and an id in one integer, so that one sort orders by score and breaks ties by id."""

from typing import NamedTuple

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).min
"""Key of an empty place, below the key of every item."""
_LOW_BITS = (1 << 32) - 1


class TopK(NamedTuple):
    """The k best items of each user, best first."""

    ids: Tensor
    """``[U, k]`` int64, -1 if fewer than k candidates are left."""
    scores: Tensor
    """``[U, k]`` float32, -inf where ids is -1."""


def encode_keys(scores: Tensor, ids: Tensor) -> Tensor:
    """Pack scores and ids into int64 keys: a greater key has a higher score, or the same score and a lower id.

    Scores are float32 of any shape, without NaN, and ids integers in [0, 2^32).
    """
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0, because they are equal scores
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # positive floats compare as integers; negative ones after a flip
    return (ordered.long() << 32) | (_LOW_BITS - ids)


def decode_keys(keys: Tensor) -> TopK:
    """Invert ``encode_keys`` for int64 of any shape; empty keys become id -1 and score -inf."""
    empty = keys == EMPTY
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    ids = _LOW_BITS - (keys & _LOW_BITS)
    return TopK(ids.masked_fill(empty, -1), scores.masked_fill(empty, float("-inf")))
