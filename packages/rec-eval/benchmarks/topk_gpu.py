"""Time top-k on a GPU.

    python packages/rec-eval/benchmarks/topk_gpu.py [--out DIR] [--sweep] [--few-users] [--profile]

Users per second of the fused and of the plain implementation beside matmul + torch.topk in chunks that fit, after a
check that they agree. One row of ``topk_gpu.csv`` for each variant, written as soon as it is measured; the table goes
to the terminal too. ``--sweep`` times other tile sizes instead, at V 893,022 and k 100, into ``topk_gpu_sweep.csv``;
``--few-users`` calls for 1 to 256 users that wait for their result, into ``few_users.csv``.
The git revision is read from the environment variable REVISION, or asked from git. Needs torch and triton alone.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from rec_eval import Catalogue, top_k
from rec_eval.ranking import triton_impl as fused
from rec_eval.ranking.kernels import merge
from rec_eval.ranking.kernels.filter import Tiles
from rec_eval.ranking.seen import SeenItems

SHAPES = [(15_405, 256), (176_450, 256), (893_022, 256), (893_022, 128), (893_022, 64), (9_400_000, 256)]
KS = (10, 100)
USERS = 8192
SCORES_GIB = 8
SWEEP = [
    Tiles(64, 32, 4, 3), Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 3), Tiles(64, 128, 4, 2), Tiles(128, 64, 8, 2),
    Tiles(128, 64, 8, 3), Tiles(128, 128, 8, 2),
]  # fmt: skip
Variants = dict[str, Callable[[], object]]
SWEPT = 893_022
MACHINE = ("gpu", "driver", "torch", "triton", "revision")
COLUMNS = ("variant", "V", "D", "k", "users", "ms", "users_per_s", "tflops", "extra_gib", "times_baseline")


def baseline(queries: torch.Tensor, items: torch.Tensor, k: int, fp32: bool) -> torch.Tensor:
    """The usual way: scores of as many users as fit, then torch.topk."""
    size = 4 if fp32 else 2
    step = max(1, (SCORES_GIB << 30) // (items.shape[0] * size))
    ids = []
    for start in range(0, queries.shape[0], step):
        part = queries[start : start + step]
        scores = torch.mm(part, items.T, out_dtype=torch.float32) if fp32 else part @ items.T
        ids.append(scores.topk(min(k, items.shape[0]), dim=1).indices)
    return torch.cat(ids)


def with_tiles(queries: torch.Tensor, items: torch.Tensor, k: int, tiles: Tiles, capacity: int | None) -> torch.Tensor:
    """The fused implementation with tiles of one's own choice."""
    plan = fused.make_plan(items.shape[0], k, tiles, capacity)
    seen = SeenItems(None, None, queries.shape[0], items.shape[0])
    step = min(fused.DEFAULT_USER_TILE, fused.most_users(plan))
    parts = queries.split(step)
    return torch.cat([fused.rank_users(part, items, k, None, seen, (0, len(part)), plan) for part in parts])


def measure(run: Callable[[], object], budget_s: float = 2.0) -> tuple[float, float]:
    """Median milliseconds of up to seven runs after one warm-up, and extra peak memory in GiB."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or (len(times) < 7 and time.perf_counter() - begun < budget_s):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), (torch.cuda.max_memory_allocated() - before) / 2**30


def random_log(items: int, users: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Fifty seen items for each user."""
    length = 50
    offsets = torch.arange(0, users * length + 1, length)
    return offsets, torch.randint(0, items, (users * length,), generator=generator, device="cuda", dtype=torch.int32)


def check(generator: torch.Generator) -> None:
    """Integer vectors: every product is exact, so fused and plain must agree in every id, ties included."""
    for items, dim, k, spread in [
        (176_450, 64, 100, 2),
        (50_000, 256, 10, 1),
        (20_001, 320, 100, 3),
        (893_022, 128, 100, 3),
    ]:
        queries = torch.randint(-spread, spread + 1, (1500, dim), generator=generator, device="cuda").bfloat16()
        table = torch.randint(-spread, spread + 1, (items, dim), generator=generator, device="cuda").bfloat16()
        offsets, seen = random_log(items, 1500, generator)
        ours = top_k(queries, table, k, seen_offsets=offsets, seen_items=seen, impl="triton")
        plain = top_k(queries, table, k, seen_offsets=offsets, seen_items=seen, impl="reference")
        if not (torch.equal(ours.ids, plain.ids) and torch.equal(ours.scores, plain.scores)):
            raise SystemExit(f"fused and plain differ at V {items}, D {dim}, k {k}")
        print(f"agree: V {items:,}, D {dim}, k {k}, 1500 users with seen items, ties to the lower id")


def environment() -> tuple[str, ...]:
    """Who measured: GPU, driver, torch, triton, revision."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")  # noqa: S603
    revision = os.environ.get("REVISION") or subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return gpu, driver, torch.__version__, triton.__version__, revision


def variants(queries: torch.Tensor, table: torch.Tensor, k: int, log: dict[str, torch.Tensor]) -> Variants:
    """What to time, by name. The first two are the usual way: scores rounded to bfloat16, and kept in float32."""
    return {
        "matmul_topk_bf16": partial(baseline, queries, table, k, False),
        "matmul_topk_fp32": partial(baseline, queries, table, k, True),
        "reference": partial(top_k, queries, table, k, impl="reference"),
        "triton": partial(top_k, queries, table, k, impl="triton"),
        "triton_seen_50": partial(top_k, queries, table, k, impl="triton", **log),
    }


def sweep_variants(queries: torch.Tensor, table: torch.Tensor, k: int) -> Variants:
    """The fused implementation as it is, and with other tiles, lists and merges."""
    runs: Variants = {
        "triton": partial(top_k, queries, table, k, impl="triton"),
        "triton_torch_merge": partial(with_torch_merge, queries, table, k),
    }
    for tiles in SWEEP:
        name = f"triton_{tiles.users}x{tiles.items}_w{tiles.warps}_s{tiles.stages}"
        runs[name] = partial(with_tiles, queries, table, k, tiles, None)
    for capacity in (412, 924, 2048):
        chosen = fused.choose_tiles(queries.shape[1], queries.device)
        assert chosen is not None
        runs[f"triton_capacity_{capacity}"] = partial(with_tiles, queries, table, k, chosen, capacity)
    runs["triton_user_tile_8192"] = partial(top_k, queries, table, k, impl="triton", user_tile=8192)
    return runs


def time_shape(num_items: int, dim: int, sweep: bool, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    """Rows of one catalogue."""
    users = USERS if num_items < 2_000_000 else USERS // 2
    table = torch.randn(num_items, dim, generator=generator, device="cuda").bfloat16()
    queries = torch.randn(users, dim, generator=generator, device="cuda").bfloat16()
    offsets, seen = random_log(num_items, users, generator)
    log = {"seen_offsets": offsets, "seen_items": seen}
    for k in KS[-1:] if sweep else KS:
        runs = sweep_variants(queries, table, k) if sweep else variants(queries, table, k, log)
        usual = float("nan")
        for name, run in runs.items():
            try:
                ms, extra = measure(run)
            except triton.runtime.errors.OutOfResources as error:
                print(f"{name:28s} does not fit: {error}")
                continue
            if name.startswith("matmul"):
                usual = ms if math.isnan(usual) else min(ms, usual)
            tflops = 2 * users * num_items * dim / ms / 1e9
            print(f"V {num_items:>9,} D {dim} k {k:>3} {name:28s} {ms:9.2f} ms {users / ms * 1e3:>10,.0f} users/s "
                  f"{tflops:6.1f} TFLOP/s {extra:6.2f} GiB {usual / ms:5.2f}x", flush=True)  # fmt: skip
            times = "" if sweep else round(usual / ms, 2)
            yield (name, num_items, dim, k, users, round(ms, 3), round(users / ms * 1e3), round(tflops, 1),
                   round(extra, 3), times)  # fmt: skip


def time_few_users(path: Path, revision: str, generator: torch.Generator) -> None:
    """Add rows of calls for few users, k 10, D 256: medians of 60 calls, each of which waits for its result."""
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for num_items in (15_405, 176_450, 893_022):
            items = torch.randn(num_items, 256, generator=generator, device="cuda").bfloat16()
            catalogue = Catalogue(items)  # as a server holds it: checked once
            for users in (1, 16, 64, 256):
                queries = torch.randn(users, 256, generator=generator, device="cuda").bfloat16()
                runs: Variants = {
                    "at once": partial(top_k, queries, catalogue, 10),
                    "matmul + topk fp32": partial(baseline, queries, items, 10, True),
                    "matmul + topk bf16": partial(baseline, queries, items, 10, False),
                }
                for name, run in runs.items():
                    times = [seconds_of(run) for _ in range(65)][5:]
                    row = ("ranking", revision, f"V {num_items} U {users} k 10", name, 1e3 * statistics.median(times))
                    writer.writerow(row)
                    print(*row, flush=True)


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of a call and its work on the GPU."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--sweep", action="store_true", help="time other tile sizes instead")
    parser.add_argument("--few-users", action="store_true", help="time calls for few users instead")
    parser.add_argument("--profile", action="store_true", help="print the time of each kernel at V 893,022, D 256")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator("cuda").manual_seed(0)
    machine = environment()
    print(*machine)
    check(generator)
    if options.profile:
        profile(generator)
    if options.few_users:
        time_few_users(options.out / "few_users.csv", machine[-1], generator)
        return
    name = "topk_gpu_sweep.csv" if options.sweep else "topk_gpu.csv"
    with (options.out / name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*MACHINE, *COLUMNS])
        for num_items, dim in SHAPES:
            if options.sweep and num_items != SWEPT:
                continue
            for row in time_shape(num_items, dim, options.sweep, generator):
                writer.writerow([*machine, *row])
                file.flush()


def with_torch_merge(queries: torch.Tensor, items: torch.Tensor, k: int) -> object:
    """The fused filter with the merge left to torch.topk."""
    longest, merge.LONGEST = merge.LONGEST, 0
    try:
        return top_k(queries, items, k, impl="triton")
    finally:
        merge.LONGEST = longest


def profile(generator: torch.Generator) -> None:
    """Print where the time of one call goes."""
    items = torch.randn(893_022, 256, generator=generator, device="cuda").bfloat16()
    queries = torch.randn(USERS, 256, generator=generator, device="cuda").bfloat16()
    top_k(queries, items, 100, impl="triton")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        top_k(queries, items, 100, impl="triton")
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=12, max_name_column_width=50))


if __name__ == "__main__":
    main()
