"""Seconds of a training step: the host and the GPU work side by side, so the slower of the two decides.

    host      launched kernel by kernel: a time for the launches of a batch, whatever its size
              recorded as a CUDA graph: a time for the replay, and for preparing a batch of so many places
    GPU       the sum of
      network   3 x 2 FLOPs per weight and token, and its activations read and written a few times; in the kernels of
                `rec_models.encoders.fused` also a time for the step, whatever its size
      loss      FLOPs of exact losses, elements of sampled ones: see its file in `rec_models.losses`
      Adam      bytes: table, gradient and moments read, table and moments written, the gradient cleared
      exchange  with P devices, bytes that each receives, f = (P - 1) / P:
                replicated  8 V D f, the gradient of the table in fp32, added up and given back
                sharded     8 T D f rows of the batch and their gradient (if none occurs twice), (6 D + 32) M (P - 1)
                            tokens and partial results of the loss
                both        8 n f, the gradient of the network

A step is an optimizer step: with ``accumulate`` it has several batches, and Adam once. The rates start from dated
figures: those of steps with the fused network of an H200, all others of an H100. `rec_models.planning.fit` refits both
to measured steps.
"""

from __future__ import annotations

from typing import NamedTuple

from rec_models.optim.build import KEPT
from rec_models.planning.calibration import Calibration
from rec_models.planning.memory import activation_bytes, network_of
from rec_models.planning.sizes import Setup, Sizes, filled, loss_cost, loss_size

RATES: dict[str, float] = {
    "launched_ms": 10.9,
    "recorded_ms": 1.66,
    "ready_places": 10e6,
    "network_flops": 70e12,
    "network_passes": 3.0,
    "bytes": 2.36e12,
    "exact_flops": 680e12,
    "shared_elements": 14.5e12,
    "own_elements": 5e11,
    "logit_elements": 8e10,
    "gathered_elements": 6e10,
    "bucket_elements": 8e10,
    "exchanged_bytes": 3.2e11,
}
"""Sources, all on an H100 80 GB.

``launched_ms``, ``recorded_ms``, ``ready_places`` (per second), ``bytes``, ``exact_flops``, ``network_flops`` and
``shared_elements``: `rec_models.planning.fit` of 29 whole steps on an NVIDIA H100 80GB HBM3, driver 580.159.04, torch
2.11.0+cu130, triton 3.6.0, revision a09511c, in packages/rec-models/benchmarks/results/step.csv. All networks there
have two blocks of D 128 or 256. Steps launched kernel by kernel took 8.9 to 11.5 ms where the GPU did not take longer;
those with `cce` or a compiled network took 1 to 2 ms more than others, and one number stands for all.

- ``network_passes``: not measured; the rates of the network go with it.
- ``own_elements``: M N D over the time of ``sampled softmax`` with sharing none (packages/cce-kernels/benchmarks,
  results/losses.csv).
- ``logit_elements``: M V over the time of eager torch (losses.csv), ``gathered_elements``: M N D over that of eager
  CE- (losses.csv).
- ``bucket_elements``: not measured; taken as ``logit_elements``.
- ``exchanged_bytes``: received per second in an all-reduce of two H200s over NVLink; over PCIe a fraction.
"""

FUSED_RATES: dict[str, float] = {
    "recorded_ms": 0.8,
    "ready_places": 60e6,
    "fused_ms": 0.3,
    "network_flops": 235e12,
    "bytes": 4.2e12,
    "exact_flops": 670e12,
    "shared_elements": 16e12,
}
"""Those of `RATES` that steps with the network of `rec_models.encoders.fused` replace, all on an H200.

- ``bytes``: Adam on 893,022 rows of 256, 6.4 GB in 1.53 ms (packages/rec-models/benchmarks,
  results/fused_kernels_h200.csv).
- ``fused_ms``, ``network_flops``, ``exact_flops`` and ``shared_elements``: fitted, with these bytes, to the last
  measurement of each of the ten recorded steps in results/fused_h200.csv beside it (torch 2.11, triton 3.6).
- ``recorded_ms``: none of those steps waited for the host, so it is only known to be below the shortest, 0.94 ms.
- ``ready_places``: batches per second that one thread reads (packages/rec-data/benchmarks, results/batches.csv).
"""

MULTIPLIED = ("launched_ms", "recorded_ms", "fused_ms", "network_passes")  # work times these, over all others


class Seconds(NamedTuple):
    """Predicted seconds of an optimizer step."""

    host: float  # launches, or a replay and the preparation of its batch
    network: float
    loss: float
    adam: float
    exchange: float = 0.0  # between devices

    @property
    def device(self) -> float:
        """Seconds that the GPU works."""
        return self.network + self.loss + self.adam + self.exchange

    @property
    def step(self) -> float:
        """Of host and GPU, the slower one."""
        return max(self.host, self.device)


def seconds_of(setup: Setup, sizes: Sizes, calibration: Calibration, *, tokens: float | None = None) -> Seconds:
    """Predicted seconds of an optimizer step, by `RATES` and `FUSED_RATES` where the calibration has none.

    `tokens` are the places of a step, all its batches together; None: of mean batches.
    """
    rates = RATES | calibration.seconds
    if setup.fused:
        rates |= FUSED_RATES | calibration.fused_seconds
    host = time_of(host_terms(setup, sizes, tokens=tokens), rates)
    parts = device_terms(setup, sizes, tokens=tokens)
    adam = parts.pop("bytes") / rates["bytes"]
    exchange = parts.pop("exchanged_bytes", 0.0) / rates["exchanged_bytes"]
    network = parts.pop("network_flops") / rates["network_flops"]
    network += parts.pop("network_passes") * rates["network_passes"] / rates["bytes"]
    if setup.fused:
        network += parts.pop("fused_ms") * rates["fused_ms"]
    return Seconds(host, network, time_of(parts, rates), adam, exchange)


def time_of(work: dict[str, float], rates: dict[str, float]) -> float:
    """Seconds of work at these rates, one term after the other."""
    return sum(amount * rates[name] if name in MULTIPLIED else amount / rates[name] for name, amount in work.items())


def host_terms(setup: Setup, sizes: Sizes, *, tokens: float | None = None) -> dict[str, float]:
    """What the host does in a step, by its rate; arguments as of `seconds_of`."""
    if not setup.recorded:
        return {"launched_ms": 1e-3 * setup.training.accumulate}
    return {"recorded_ms": 1e-3, "ready_places": sizes.tokens if tokens is None else tokens}


def device_terms(setup: Setup, sizes: Sizes, *, tokens: float | None = None) -> dict[str, float]:
    """What the GPU does in a step, by its rate; arguments as of `seconds_of`."""
    whole, sizes = sizes, sizes.of_shard(setup.shards)
    model, batches, network = setup.model, setup.training.accumulate, network_of(setup.model)
    width = model.hidden
    places = filled(setup, sizes.tokens if tokens is None else tokens / batches)
    weights = network.parameters - model.max_seq_len * width
    attended = sizes.mean_length / (2 if network.causal else 1)
    of_a_batch = {
        "network_flops": places * (6 * weights + 12 * model.blocks * attended * width),
        "network_passes": activation_bytes(model) * places,
        **loss_cost(setup, loss_size(setup, sizes, places)).work,
    }
    if setup.fused:
        of_a_batch["fused_ms"] = 1e-3
    kept = KEPT[setup.training.optimizer]
    # A lazy update reads the whole gradient, which was zeroed, and leaves all rows but a few as they are.
    of_table = (8 if kept.lazy else 16 + 2 * kept.element_bytes) * sizes.items * width
    adam = 32.0 * network.parameters + of_table
    terms = {name: batches * work for name, work in of_a_batch.items()} | {"bytes": adam}
    if (devices := setup.training.devices) > 1:
        received = (1 - 1 / devices) * 8.0 * network.parameters
        if setup.shards == 1:
            received += (1 - 1 / devices) * 8.0 * whole.items * width
        else:
            targets = loss_size(setup, sizes, places).tokens / devices
            received += batches * (
                (1 - 1 / devices) * 8.0 * places * width + (6 * width + 32) * targets * (devices - 1)
            )
        terms["exchanged_bytes"] = received
    return terms
