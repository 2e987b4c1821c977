"""A call of the sampled loss as flat arguments: what the custom operators take, of the kernels and of the reference."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from cce_kernels.sampled.draws import Draw, Groups
from cce_kernels.sampled.objectives import Objective, Terms, decode, encode
from cce_kernels.sampled.samplers import Source


class Call(NamedTuple):
    """What a call is made of, flat and in the types of an operator's schema; forward and backward take all of it."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # int64 [M]
    seed: Tensor  # int64 []
    step: Tensor  # int64 []
    size: Tensor | None  # int64 []: positions to draw from, where the device knows them
    table: Tensor | None  # int64 [positions]
    log_q: Tensor | None  # fp32 [V]
    log_rest: Tensor | None  # fp32 [M]
    sizes: Sequence[int]  # positions, num_negatives, the fields of Groups, ignore_index
    alias: bool
    objective: str
    t: float

    @property
    def num_negatives(self) -> int:
        """N."""
        return self.sizes[1]

    @property
    def groups(self) -> Groups:
        """Who shares negatives."""
        return Groups(*self.sizes[2:-1])

    @property
    def ignore_index(self) -> int:
        """The target of tokens that do not count."""
        return self.sizes[-1]

    @property
    def terms(self) -> Terms:
        """What is summed."""
        return decode(self.objective, self.t).terms(self.num_negatives, self.weight.shape[0])

    @property
    def draw(self) -> Draw:
        """What is drawn."""
        size = self.sizes[0] if self.size is None else self.size
        source = Source(size, self.table, self.alias, self.log_q, self.log_rest)
        return Draw(source, self.seed, self.step, self.groups, self.num_negatives)


# The fields of `Call` in an operator's schema.
CALL_SCHEMA = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor seed, Tensor step, Tensor? size, "
    "Tensor? table, Tensor? log_q, Tensor? log_rest, SymInt[] sizes, bool alias, str objective, float t"
)
NUM_TENSORS = 10  # the fields that come first are tensors or None


def call_of(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    draw: Draw,
    objective: Objective,
    ignore_index: int,
) -> Call:
    """Flatten a call."""
    source = draw.source
    size, positions = (source.size, 0) if isinstance(source.size, Tensor) else (None, source.size)
    return Call(
        hidden, weight, bias, targets, draw.seed, draw.step, size, source.table, source.log_q, source.log_rest,
        [positions, draw.num_negatives, *draw.groups, ignore_index], source.alias, *encode(objective),
    )  # fmt: skip
