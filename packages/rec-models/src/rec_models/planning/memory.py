"""Peak memory of training on a GPU, predicted from settings and sizes.

The model counts the bytes of the tensors that are alive at each moment of a step that may be the peak, and takes the
largest. With n parameters, T places, M targets, V items, B histories, width D and 16-bit products:

    always      parameters 4 n, Adam 8 n, with averaging 4 n, and cuBLAS's workspaces of the forward and of the backward
                thread
    forward     everything kept for backward, what the loss makes, and the gradients 4 n of the step before, which are
                cleared after the forward pass. A recorded step has already cleared its own.
    loss        inside its backward pass: the same without the last norm's output, plus the item table's new gradient
                4 V D; with accumulation the gradients so far stay as well
    attention   inside the backward pass of the last block's attention: 4 V D, what is still kept, the gradients of
                queries, keys and values, and flash attention's fp32 sums for queries, 4 D (T + 128 B); padded, 4 D B L
    Adam        inside its step: the gradients 4 n

    kept for backward, per block and token: 4 D norm's input (residual stream, fp32), 2 D its product input, 6 D
        queries, keys, values, 2 D attention's output, 4 heads log-sum-exps, 1 D dropout, and for a feed-forward net of
        width f D: 4 D, 2 D, 2 f D, 2 f D, 1 D. ReLU keeps its output alone, 2 f D less. With norm=query keys and values
        have a product input of their own, 2 D, and dropout is inside the net, f D, not behind attention. With dropout
        in attention, queries, keys, values and output are padded to B L places, and the output is packed again.
    a sharded table: everything of V divided by the devices; the tokens of all devices, 2 D, kept for backward, and 12 D
        while partial results are exchanged
    around the blocks, per token: 1 D dropout, 4 D the last norm's input, 4 D its output, 2 D the loss's input
    the loss: see its file in `rec_models.losses`

Recorded steps fill batches up (`rec_models.training.cuda_graphs`). Their recordings share one pool, which takes what
the largest step takes and gives it to nobody else: torch's peak does not include it, but it has to fit. Measured runs
correct the parts by factors (`rec_models.planning.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.optim.build import KEPT
from rec_models.planning.calibration import Calibration
from rec_models.planning.sizes import Setup, Sizes, filled, loss_cost, loss_size

GIB = 2**30
WORKSPACES = 2 * (32 << 20)  # cuBLAS on sm_90; autograd's thread has its own handle
_EXCHANGED = 14  # bytes: 16-bit tokens of all devices, means and target rows, the same side by side, and those received
_FLASH_ROWS = 128  # flash attention's backward keeps this many rows of fp32 sums between packed histories


class Memory(NamedTuple):
    """Predicted GiB of a training run."""

    state: float  # parameters, their average and optimizer state
    gradients: float
    activations: float
    loss: float  # what the loss adds, including a 16-bit copy of the item table
    constant: float  # what every run has: cuBLAS's workspaces, and what measured runs add to them
    peak: float  # of the training loop: the sum of the parts above, which are those of the worst moment
    pool: float = 0.0  # what recordings hold in addition: batches of a size not yet recorded are trained on beside it

    def fits(self, gpu_gib: float) -> bool:
        """Whether a GPU of so many GiB holds it; 5 % and half a GiB are left for the CUDA context and fragmentation."""
        return self.peak + self.pool <= 0.95 * gpu_gib - 0.5


class Moment(NamedTuple):
    """Bytes at one moment of a step, before calibration."""

    gradients: float
    activations: float
    loss: float

    def scaled(self, loss: str, calibration: Calibration) -> Moment:
        """With the factors of a calibration."""
        factor = calibration.loss.get(loss, 1.0)
        return Moment(self.gradients, self.activations * calibration.activations, self.loss * factor)


def memory_of(setup: Setup, sizes: Sizes, calibration: Calibration, *, tokens: float | None = None) -> Memory:
    """Predicted peak of the training loop; `tokens` is T of the largest batch (None: as `sizes` expects it).

    It is that of each device, with the batch of each.
    """
    sizes = sizes.of_shard(setup.shards)
    moments = moments_of(setup, sizes, sizes.most_tokens if tokens is None else tokens)
    worst = worst_of(moments, setup.loss.loss, calibration)
    constant = WORKSPACES + calibration.constant_gib * GIB
    of_step = worst.scaled(setup.loss.loss, calibration)
    parts = (state_bytes(setup, sizes.items), *of_step, constant)
    pool = sum(of_step) if setup.recorded else 0.0
    return Memory(*(part / GIB for part in (*parts, sum(parts), pool)))


def worst_of(moments: Iterable[Moment], loss: str, calibration: Calibration) -> Moment:
    """The moment of the peak, without the factors of the calibration that select it."""
    return max(moments, key=lambda moment: sum(moment.scaled(loss, calibration)))


def moments_of(setup: Setup, sizes: Sizes, tokens: float) -> Iterator[Moment]:
    """The moments that may be the peak, as the head of this file lists them; arguments as of `memory_of`."""
    model, items, rows = setup.model, sizes.items, sizes.rows
    places = filled(setup, tokens)
    size = loss_size(setup, sizes, places)
    loss = loss_cost(setup, size)
    table = 4.0 * items * model.hidden
    others = 4.0 * network_of(model).parameters
    summed = table + others if setup.training.accumulate > 1 else 0.0  # over the batches before
    kept = activation_bytes(model) * places + model.blocks * _padded_bytes(model, rows, places)
    of_all = size.tokens * model.hidden if setup.shards > 1 else 0.0  # elements of the tokens of all devices
    yield Moment(0.0 if setup.recorded else table + others, kept + _EXCHANGED * of_all, loss.forward)
    backward = kept - 4 * model.hidden * places + 2 * of_all
    yield Moment(summed + (table if loss.with_gradient else 0.0), backward, loss.backward)
    yield Moment(summed + table, _attention_bytes(model, rows, places), 0.0)
    yield Moment(others + table, 0.0, 0.0)


class Network(NamedTuple):
    """What the predictions need to know about a network."""

    parameters: int  # without the item table
    feed_factor: int  # width of the feed-forward nets' inner layers, in D
    causal: bool


@lru_cache
def network_of(model: ModelSettings) -> Network:
    """Build the network without its memory and look at it."""
    with torch.device("meta"):
        encoder = build_encoder(model, 2)
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) - encoder.item_table.numel()
    return Network(parameters, encoder.feed_factor, encoder.causal)


def parameter_count(model: ModelSettings, items: int) -> int:
    """Parameters of the network with a table of so many items."""
    return items * model.hidden + network_of(model).parameters


def state_bytes(setup: Setup, items: int) -> float:
    """Bytes of the parameters, of their average and of what the optimizer keeps of them."""
    kept = KEPT[setup.training.optimizer]
    of_table = (8 - kept.element_bytes) * items * setup.model.hidden - kept.row_bytes * items
    each = 16.0 if setup.training.averaging else 12.0
    return each * parameter_count(setup.model, items) - of_table


def activation_bytes(model: ModelSettings) -> int:
    """Bytes kept for backward per token, where attention is packed."""
    return model.blocks * _block_bytes(model) + (1 + 4 + 4 + 2) * model.hidden + 40  # 40: ids and places


def _block_bytes(model: ModelSettings) -> int:
    factor, own_query = network_of(model).feed_factor, model.norm == "query"
    feed = 4 + 2 + (2 if model.activation == "relu" else 4) * factor + 1 + (factor if own_query else 0)
    return (4 + 2 + 6 + 2 + (2 if own_query else 1) + feed) * model.hidden + 4 * model.heads + 16


def _padded_bytes(model: ModelSettings, rows: int, places: float) -> float:
    """What padded attention keeps in addition to a packed block.

    8 D and the log-sum-exps for each of the B L places, less 6 D and log-sum-exps for each packed one.
    """
    if model.attention_dropout == 0:
        return 0.0
    per_row = (8 * model.hidden + 4 * model.heads) * model.max_seq_len
    return per_row * rows - (6 * model.hidden + 4 * model.heads) * places


def _attention_bytes(model: ModelSettings, rows: int, places: float) -> float:
    """What is alive inside the backward pass of the last block's attention, with all blocks' activations."""
    width = model.hidden
    spread = rows * (model.max_seq_len if model.attention_dropout else 0)
    inside = max(places, spread)
    kept = (model.blocks - 1) * (_block_bytes(model) * places + _padded_bytes(model, rows, places))
    kept += (1 + 4 + 2 + 8) * width * places + (8 * width * spread if spread else 0)
    # Gradients of the residual stream, of the output, and of queries, keys and values; then the sums for queries.
    flowing = 4 * width * places + (2 + 6) * width * inside
    return kept + flowing + 4 * width * (inside + (0 if spread else _FLASH_ROWS * rows))
