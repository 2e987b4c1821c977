"""Compile every kernel of the workspace for the GPUs that people have, without any of them: results/architectures.csv.

    python packages/cce-kernels/benchmarks/architectures.py [--architectures 75 80 86 89 90]

Each kernel is compiled at each width and dtype with the tiles that the package looks up for the architecture, and
assembled by ptxas. A row tells the tiles, the shared memory against what a block of the GPU may have, registers and
spills. results/gpus.csv sums that up per GPU, and says which of them were measured (the GPUs of results/losses.csv).
Compiled is not run: what a row does not say is whether the results are right and how fast they are there.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from registers import assemble, pretend, watch
from rows import read

from cce_kernels.hardware import is_ampere_or_newer

RESULTS = Path(__file__).parent / "results"
# Compute capability, and KiB of shared memory that a block may ask for (CUDA C++ Programming Guide).
GPUS = {"T4": 75, "A100": 80, "A10": 86, "L4": 89, "RTX 4090": 89, "H100": 90, "H200": 90}
SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
DTYPES = ("bfloat16", "float16", "float32")
DIMS = (64, 128, 256, 512)
COMPILED = "compiled"
M, V, N = 256, 4096, 100  # enough items for a forward that is split on every architecture


@dataclass(frozen=True)
class Kernel:
    """A kernel compiled once, or the reason why it was not."""

    architecture: int
    operation: str
    dtype: str  # of the hidden vectors; the item table is fp32
    D: int
    kernel: str
    tiles: str
    warps: int
    stages: int
    shared_bytes: int
    registers: int
    spilled_bytes: int
    outcome: str

    @property
    def fits(self) -> bool:
        """Whether it was assembled, and a block may have the shared memory that it wants."""
        return self.outcome == COMPILED and self.shared_bytes <= SHARED_KIB[self.architecture] << 10


def losses(dtype: str, dim: int) -> Iterator[tuple[str, Any]]:
    """The calls that launch the kernels of this package at a width and dtype: name and function."""
    from cce_kernels import BCE, Popularity, linear_cross_entropy, sampled_linear_cross_entropy
    from cce_kernels.full.call import FullCall
    from cce_kernels.full.chunked_impl import full_chunked
    from cce_kernels.full.small_impl import full_small
    from cce_kernels.full.tuning import widest

    hidden = torch.zeros(M, dim, dtype=getattr(torch, dtype), requires_grad=True)
    weight, bias = torch.zeros(V, dim, requires_grad=True), torch.zeros(V, requires_grad=True)
    inputs = (hidden, weight, torch.zeros(M, dtype=torch.int64))
    popularity = Popularity(torch.ones(V))
    full: list[dict[str, Any]] = [{}]
    sampled: list[dict[str, Any]] = [{}]
    if dim == DIMS[0]:  # every branch compiles at one width
        full += [{"bias": bias, "softcap": 3.0}, {"filter_eps": 0.1}]
        sampled += [{"bias": bias, "sampler": popularity, "objective": BCE()}, {"deterministic": True}]
        sampled += [{"row_offset": torch.zeros((), dtype=torch.int64)}]
    if dim <= widest(hidden.dtype):
        for options in full:
            yield "full", lambda x=options: linear_cross_entropy(*inputs, impl="triton", **x).backward()
    call = FullCall(hidden, weight, None, inputs[2], -100, None, 1.0, None, True)
    if dtype == "bfloat16" and dim == DIMS[0]:  # its kernels see no vectors
        yield "full, small", lambda: full_small(call, "mean")[0].backward()
    if dtype == "bfloat16" and dim == DIMS[-1]:  # tuning.is_chunked
        yield "full, chunked", lambda: full_chunked(call, "mean")[0].backward()
    for sharing in ("tile", "none"):
        for options in sampled:
            given = {"num_negatives": N, "seed": 1, "sharing": sharing, "impl": "triton", **options}
            yield f"sampled, {sharing}", lambda x=given: sampled_linear_cross_entropy(*inputs, **x).backward()


def sharded(dtype: str, dim: int) -> Iterator[tuple[str, Any]]:
    """The calls that launch the kernels of losses over sharded rows, for the tokens of one process, at one width."""
    if dim != DIMS[0]:
        return
    from cce_kernels import BCE, Softmax, Uniform
    from cce_kernels.full.call import FullCall
    from cce_kernels.sampled.call import sampled_call
    from cce_kernels.sampled.draws import groups_of
    from cce_kernels.shard import Rows
    from cce_kernels.sharded import full, sampled_triton
    from cce_kernels.sharded.kernels.own_draws import pack_own_draws
    from cce_kernels.sharded.kernels.tokens import launch_merge
    from cce_kernels.sharded.merge import Partial

    hidden, weight = torch.zeros(M, dim, dtype=getattr(torch, dtype)), torch.zeros(V, dim)
    targets, numbers, gradient = torch.zeros(M, dtype=torch.int64), torch.zeros(3, M), torch.zeros(V, dim)
    rows = Rows(2 * V, 2, 0)

    def run_full() -> None:
        call = FullCall(hidden, weight, None, targets, -100, None, 1.0, None, True)
        full.partial(call, use_triton=True)
        full.weight_gradient(call, numbers[0], numbers[1], torch.ones(()), use_triton=True)

    def run_sampled(sharing: Any) -> None:
        offset = torch.zeros((), dtype=torch.int64)
        call = sampled_call(
            hidden, weight, None, targets, Uniform(), Softmax(), 1, 0, num_negatives=N, ignore_index=-100,
            groups=groups_of(M, sharing, 64, offset), deterministic=False, row_offset=offset,
        )  # fmt: skip
        ids, counts = pack_own_draws(call, rows)
        call = call._replace(id_table=ids, own_counts=counts, size=N)
        sampled_triton.write_sums(call, *numbers, torch.zeros_like(hidden))
        sampled_triton.add_gradient(call, numbers[0], numbers[1], torch.ones(()), gradient, None)

    def run_merge(kind: str) -> None:
        parts = Partial(*torch.zeros(4, 2, M), *torch.zeros(2, 2, M, dim, dtype=hidden.dtype))
        terms = None if kind == "full" else (Softmax() if kind == "softmax" else BCE()).terms(N, V)
        launch_merge(parts, targets, -100, V, terms=terms, rest=numbers[0] if kind == "softmax" else 0.0)

    yield "full, sharded", run_full
    for kind in ("full", "softmax", "pointwise"):
        yield f"merge, {kind}, sharded", lambda x=kind: run_merge(x)
    for sharing in ("tile", "none"):
        yield f"sampled, {sharing}, sharded", lambda x=sharing: run_sampled(x)


def ranking(dtype: str, dim: int) -> Iterator[tuple[str, Any]]:
    """The calls that launch the kernels of rec_eval, where it uses them: fp32 vectors are ranked by plain torch."""
    from rec_eval.ranking.kernels import select
    from rec_eval.ranking.kernels.filter import filter_items
    from rec_eval.ranking.kernels.merge import LONGEST, merge_survivors
    from rec_eval.ranking.kernels.order import LONGEST as MOST
    from rec_eval.ranking.kernels.order import order_best
    from rec_eval.ranking.triton_impl import DTYPES as RANKED
    from rec_eval.ranking.triton_impl import choose_tiles

    kind = getattr(torch, dtype)
    tiles = choose_tiles(dim, torch.device("cuda", 0))
    if kind not in RANKED or tiles is None:
        return
    queries, items = torch.zeros(M, dim, dtype=kind), torch.zeros(V, dim, dtype=kind)
    floors = torch.zeros(M), torch.zeros(M, dtype=torch.int32)
    numbers = torch.zeros(M + 1, dtype=torch.int64)
    for bias in (None, torch.zeros(V)):
        yield (
            "top-k",
            lambda x=bias: filter_items(queries, items, x, *floors, (0, 1), 1, 256, tiles, 8, skip_empty=True),
        )
    found = filter_items(queries, items, None, *floors, (0, 1), 1, 256, tiles, 8, skip_empty=True)
    if dim == DIMS[0]:  # the merge sees no vectors; its longest sort wants most
        for longest in (246, LONGEST - 10):
            yield (
                "top-k",
                lambda x=longest: merge_survivors(
                    torch.zeros(M, 10, dtype=torch.int64), found, x, numbers[:M], numbers, torch.zeros(1).int(), 20
                ),
            )
        for length in (11, MOST):
            best = torch.zeros(M, length), torch.zeros(M, length, dtype=torch.int64), length - 1, queries
            lists = torch.zeros(M, length - 1, dtype=torch.int64), torch.zeros(M, length - 1)
            yield "top-k", lambda x=best, y=lists: order_best(*x, *y, *floors[:1], torch.zeros(M))
        for k in (10, select.LONGEST):
            lists = torch.zeros(M, k, dtype=torch.int64), torch.zeros(M, k)
            scores = torch.zeros(1, 2 * select._KEYS * select._BLOCK).expand(M, -1)
            yield ("top-k", lambda x=k, y=lists, s=scores: select.select_best(s, x, queries, *y, torch.zeros(M)))


def optimizer(dtype: str, dim: int) -> Iterator[tuple[str, Any]]:
    """The calls that launch the kernels of rec_models: a table in fp32, moments in the dtype, and fp32 tensors."""
    from rec_models.optim.adam_rows import launch_adam_rows
    from rec_models.optim.adam_tensors import launch_adam_tensors

    group = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.0}
    table, first = torch.zeros(V, dim), torch.zeros(V, dim, dtype=getattr(torch, dtype))
    if dtype != "float16":
        for second in (first,) if dtype == "float32" else (first, torch.zeros(V, 1)):
            yield "Adam", lambda x=second: launch_adam_rows(table, table, first, x, torch.zeros(1), group)
        if dtype == "bfloat16":
            second, last = torch.zeros(V, 1), torch.zeros(V, 1, dtype=torch.int32)
            yield "Adam", lambda: launch_adam_rows(table, table, first, second, torch.zeros(1), group, last)
    if dtype == "float32":
        tensors = [table, table[0]]
        yield "Adam", lambda: launch_adam_tensors(*[tensors] * 4, [torch.zeros(())] * 2, group)


def network(dtype: str, dim: int) -> Iterator[tuple[str, Any]]:
    """The calls that launch the kernels of the fused network, with heads as wide as 64 and 128."""
    from rec_models.encoders.fused import attention, residual
    from rec_models.encoders.fused.activation import launch_activation_backward
    from rec_models.encoders.fused.sums import column_sums
    from rec_models.encoders.packing import layout_of

    if dtype == "float32" or dim not in (64, 256) or not is_ampere_or_newer(torch.device("cuda", 0)):
        return
    narrow, wide = torch.zeros(M, dim, dtype=getattr(torch, dtype)), torch.zeros(M, dim)
    gain, ids, seed = torch.zeros(dim), torch.zeros(M, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    sums, qkv, layout = (
        torch.zeros(4, 4 * dim),
        torch.zeros(M, 3 * dim, dtype=narrow.dtype),
        layout_of(torch.tensor([M])),
    )
    start = residual.Embeddings(wide, ids, ids, wide, 1.0)
    dropout = residual.Dropout(seed, 1, 0.1)

    def norms() -> None:
        normed = residual.launch_norm_forward(None, start, gain, gain, 1e-5, dropout, narrow.dtype)
        residual.launch_norm_forward(wide, narrow, gain, gain, 1e-5, dropout, narrow.dtype)
        for later, into in ((None, narrow), (wide, narrow), (wide, start)):
            residual.launch_norm_backward(
                narrow, later, normed, gain, dropout, sums[:, : 3 * dim], into, first=into is start
            )

    def attentions(causal: bool) -> None:
        heads = attention.Heads(max(1, dim // 128), causal)
        out, lse = attention.launch_attention_forward(qkv, layout, heads)
        tiles = torch.zeros(attention.num_tiles(M), 3 * dim)
        attention.launch_attention_backward(qkv, out, lse, out, layout, heads, tiles)

    yield "network", norms
    for causal in (True, False):
        yield "network", lambda x=causal: attentions(x)
    for activation in ("gelu", "relu"):
        yield "network", lambda x=activation: launch_activation_backward(narrow, narrow, sums[:, 3 * dim :], x)
    yield "network", lambda: column_sums(sums)


def compile_all(architecture: int) -> list[Kernel]:
    """Every kernel for one architecture. This process then has a driver that launches nothing."""
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime import driver

    CUDABackend.make_cubin = lambda *_: b""  # `assemble` runs ptxas, and reads what it tells
    properties = SimpleNamespace(major=architecture // 10, minor=architecture % 10, multi_processor_count=132)
    torch.cuda.get_device_properties = lambda _: properties
    rows: list[Kernel] = []
    place: dict[str, Any] = {"architecture": architecture}
    nothing = {"tiles": "", "warps": 0, "stages": 0, "shared_bytes": 0, "registers": 0, "spilled_bytes": 0}

    def see(name: str, compiled: Any) -> None:
        names, constants = compiled.src.fn.arg_names, compiled.src.constants
        blocks = {names[place[0]]: value for place, value in constants.items() if names[place[0]].startswith("BLOCK")}
        said = {"registers": "0", "spilled": "0"}
        outcome = COMPILED
        try:
            with tempfile.TemporaryDirectory() as folder:
                said = assemble(compiled, Path(folder) / "k.cubin")
        except subprocess.CalledProcessError as error:
            outcome = f"ptxas: {error.stderr.strip().splitlines()[0]}"
        meta = compiled.metadata
        rows.append(Kernel(
            **place, kernel=name, tiles=" x ".join(str(x) for x in blocks.values()), warps=meta.num_warps,
            stages=meta.num_stages, shared_bytes=meta.shared, registers=int(said["registers"] or 0),
            spilled_bytes=int(said["spilled"] or 0), outcome=outcome,
        ))  # fmt: skip

    watch(architecture, see)
    driver.active.utils = SimpleNamespace(
        get_device_properties=lambda _: {"max_shared_mem": SHARED_KIB[architecture] << 10}
    )
    pretend(architecture)
    for dtype in DTYPES:
        # Both 16-bit dtypes have the same tiles. Without tensor cores a wide product unrolls into code that takes a
        # compiler many minutes.
        for dim in DIMS if architecture >= 80 and dtype != "float16" else DIMS[:1]:
            for calls in (losses, sharded, ranking, optimizer, network):
                for operation, call in calls(dtype, dim):
                    place |= {"operation": operation, "dtype": dtype, "D": dim}
                    try:
                        call()
                    except Exception as error:
                        message = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                        rows.append(Kernel(**place, kernel="", **nothing, outcome=message))
    return rows


def summary(kernels: list[Kernel]) -> list[dict[str, object]]:
    """A row for each GPU: what compiles for it, what its blocks hold, what `impl=auto` takes, and what was measured."""
    told, measured = torch.cuda.get_device_properties, {row.gpu for row in read(RESULTS / "losses.csv")}
    rows = []
    for gpu, architecture in GPUS.items():
        mine = [kernel for kernel in kernels if kernel.architecture == architecture]
        if not mine:
            continue
        torch.cuda.get_device_properties = lambda _, x=architecture: SimpleNamespace(major=x // 10)
        uses_kernels = is_ampere_or_newer(torch.device("cuda", 0))
        rows.append({
            "gpu": gpu, "compute_capability": architecture / 10, "shared_kib": SHARED_KIB[architecture],
            "kernels": len(mine), "compiled": sum(kernel.outcome == COMPILED for kernel in mine),
            "fit": sum(kernel.fits for kernel in mine), "largest_shared_kib": max(x.shared_bytes for x in mine) / 1024,
            "impl_auto": "triton" if uses_kernels else "reference",
            "bf16": "yes" if uses_kernels else "no", "measured": "yes" if any(gpu in x for x in measured) else "no",
        })  # fmt: skip
    torch.cuda.get_device_properties = told
    return rows


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_kernels(path: Path) -> list[Kernel]:
    """The rows of architectures.csv."""
    numbers = {field.name for field in fields(Kernel) if field.type == "int"}
    with path.open(newline="") as file:
        rows = [{name: int(x) if name in numbers else x for name, x in row.items()} for row in csv.DictReader(file)]
    return [Kernel(**row) for row in rows]


def main() -> None:
    """Compile for each architecture in a process of its own, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", choices=SHARED_KIB, default=list(SHARED_KIB))
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)  # of one process
    arguments = parser.parse_args()
    if arguments.to is not None:
        write(arguments.to, [asdict(kernel) for kernel in compile_all(*arguments.architectures)])
        return
    path = RESULTS / "architectures.csv"
    kernels = read_kernels(path) if path.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache"}
        environment.pop("TRITON_INTERPRET", None)
        for architecture in arguments.architectures:
            part = Path(folder) / f"{architecture}.csv"
            command = [sys.executable, __file__, "--architectures", str(architecture), "--to", part]
            subprocess.run(command, env=environment, check=True)  # noqa: S603
            kernels = [kernel for kernel in kernels if kernel.architecture != architecture] + read_kernels(part)
            print(f"sm_{architecture}: {sum(k.architecture == architecture for k in kernels)} kernels", flush=True)
    kernels.sort(key=lambda kernel: kernel.architecture)
    write(path, [asdict(kernel) for kernel in kernels])
    write(RESULTS / "gpus.csv", summary(kernels))


if __name__ == "__main__":
    main()
