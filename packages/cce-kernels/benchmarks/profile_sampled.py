"""Where the time of one step of the sampled loss goes, kernel by kernel.

python packages/cce-kernels/benchmarks/profile_sampled.py [--shapes beauty zvuk] [--sharing tile none]
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from points import SHAPES
from timing import need_gpu
from torch.profiler import ProfilerActivity, profile

from cce_kernels import sampled_linear_cross_entropy


def main() -> None:
    """Print the kernels that take the most time, with their calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--sharing", nargs="+", default=["tile", "none"])
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    need_gpu()
    for shape in arguments.shapes:
        tokens, items, negatives = SHAPES[shape]
        weight = torch.randn(items, arguments.dim, device="cuda").mul_(0.05).requires_grad_()
        hidden = torch.randn(tokens, arguments.dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        targets = torch.randint(0, items, (tokens,), device="cuda")
        for sharing in arguments.sharing:
            loss_of = partial(
                sampled_linear_cross_entropy, targets=targets, num_negatives=negatives, seed=1, sharing=sharing
            )
            torch.autograd.grad(loss_of(hidden, weight), (hidden, weight))
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as result:
                torch.autograd.grad(loss_of(hidden, weight), (hidden, weight))
                torch.cuda.synchronize()
            print(f"{shape} {sharing}")
            events = [event for event in result.key_averages() if event.self_device_time_total > 0]
            for event in sorted(events, key=lambda event: -event.self_device_time_total)[:9]:
                print(f"  {event.self_device_time_total / 1e3:9.3f} ms x{event.count:<4} {event.key[:90]}")


if __name__ == "__main__":
    main()
