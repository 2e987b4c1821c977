"""Time, memory and gradient error of the sampled losses.

    python packages/cce-kernels/benchmarks/bench_sampled.py [--quick] [--out DIR]

For every shape: forward and backward from Python (launches included) and both replayed from one CUDA graph (the GPU
alone), the bytes a gather must move over the time (GB/s, and its share of the copy ceiling measured in the same run),
peak extra memory, and the gradient error against float64 at a small shape. Peers: plain-torch CE- where it fits.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
import triton
from timing import copy_ceiling, graph_ms, median_ms, peak_extra_bytes

from cce_kernels import draw_negatives, sampled_linear_cross_entropy

SHAPES = {"beauty": (32768, 176450, 511), "movielens_20m": (131072, 14000, 511), "zvuk": (131072, 893022, 2047)}
EAGER_BYTES = 40 << 30


def eager_sampled(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Plain-torch CE-: gathers [M, N, D]."""
    rows = weight.to(hidden.dtype)[ids]
    scores = torch.einsum("md,mnd->mn", hidden, rows).float()
    kept = ids != targets[:, None]
    correction = (weight.shape[0] - 1) / kept.sum(1, keepdim=True)
    scores = (scores + correction.log()).masked_fill(~kept, -torch.inf)
    positive = (hidden * weight.to(hidden.dtype)[targets]).float().sum(1, keepdim=True)
    return (torch.cat((positive, scores), 1).logsumexp(1) - positive[:, 0]).mean()


def gradient_error(sharing: str, dim: int) -> float:
    """Relative error of dW in bf16 against float64, at M 2,048, V 5,000, N 256."""
    hidden = torch.randn(2048, dim, device="cuda").div_(dim**0.25).bfloat16()
    weight = torch.randn(5000, dim, device="cuda").div_(dim**0.25).bfloat16()
    targets = torch.randint(0, 5000, (2048,), device="cuda")
    options: dict[str, Any] = {"num_negatives": 256, "seed": 1, "sharing": sharing}
    gradients = []
    for dtype, impl in ((torch.bfloat16, "triton"), (torch.float64, "reference")):
        leaves = hidden.to(dtype).requires_grad_(), weight.float().to(dtype if impl == "reference" else torch.float32)
        leaves[1].requires_grad_()
        loss = sampled_linear_cross_entropy(*leaves, targets, impl=impl, **options)
        gradients.append(torch.autograd.grad(loss, leaves)[1].double())
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def measure(shape: str, sharing: str, dim: int, **options: Any) -> dict[str, Any]:
    """One row of the table."""
    tokens, items, negatives = SHAPES[shape]
    weight = torch.randn(items, dim, device="cuda").mul_(0.05).requires_grad_()
    hidden = torch.randn(tokens, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, items, (tokens,), device="cuda")
    seed, step = torch.tensor(1, device="cuda"), torch.tensor(0, device="cuda")

    def forward() -> torch.Tensor:
        return sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=negatives, seed=seed, step=step, sharing=sharing, **options
        )

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(forward(), (hidden, weight))

    loss: torch.Tensor | None = forward()
    sets = tokens if sharing == "none" else -(-tokens // 64)
    gathered = sets * negatives * dim * 2 / 1e9
    result = {
        "loss": "sampled softmax", "shape": shape, "M": tokens, "V": items, "D": dim, "N": negatives,
        "sharing": sharing, "options": " ".join(f"{k}={v}" for k, v in options.items()),
        "forward_ms": median_ms(forward),
        "backward_ms": median_ms(lambda: torch.autograd.grad(loss, (hidden, weight), retain_graph=True)),
        "both_ms": median_ms(both),
        "peak_extra_mib": peak_extra_bytes(both) / 2**20,
        "outputs_mib": (weight.numel() * 4 + hidden.numel() * 2) / 2**20,
        "gathered_gb": gathered,
    }  # fmt: skip
    loss = None  # its graph ties the leaves to the default stream, which a capture must not touch
    result["graph_both_ms"] = graph_ms(both)
    result["gather_share_of_copy"] = 2 * gathered / result["graph_both_ms"] * 1e3 / copy_ceiling()
    if sharing == "none" and tokens * negatives * dim * 2 * 3 < EAGER_BYTES:
        result["eager_ms"] = median_ms(
            lambda: torch.autograd.grad(
                eager_sampled(
                    hidden, weight, targets, draw_negatives(tokens, items, num_negatives=negatives, seed=seed)
                ),
                (hidden, weight),
            )
        )
    return result


def revision() -> str:
    """The git revision: from the environment variable REVISION, or asked from git."""
    ask = ["git", "rev-parse", "--short", "HEAD"]
    return os.environ.get("REVISION") or subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="D 256 only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    machine = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "revision": revision(), "copy_gb_s": round(copy_ceiling()),
    }  # fmt: skip
    cases: list[tuple[str, str, int, dict[str, Any]]] = [(s, k, 256, {}) for s in SHAPES for k in ("tile", "none")]
    if not arguments.quick:
        cases += [(s, "tile", 256, {"deterministic": True}) for s in SHAPES]
        cases += [("beauty", k, d, {}) for d in (64, 128, 320, 512) for k in ("tile", "none")]
    rows = []
    for shape, sharing, dim, options in cases:
        row = measure(shape, sharing, dim, **options)
        row["error_dweight"] = gradient_error(sharing, dim)
        rows.append({"eager_ms": None, **row, **machine})
        print(
            f"{shape:14} {sharing:5} D {dim} {row['options']:20} forward {row['forward_ms']:8.3f} backward "
            f"{row['backward_ms']:8.3f} both {row['both_ms']:8.3f} graph {row['graph_both_ms']:8.3f} ms  extra "
            f"{row['peak_extra_mib'] - row['outputs_mib']:7.0f} MiB  share {row['gather_share_of_copy']:.2f}  error "
            f"{row['error_dweight']:.1e}  eager {row.get('eager_ms')}",
            flush=True,
        )
        torch.cuda.empty_cache()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "bench_sampled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


if __name__ == "__main__":
    main()
