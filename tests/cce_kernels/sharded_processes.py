"""Both losses over a table that is sharded over processes: run by test_autograd.py of the folder `sharded`.

Arguments: a folder for files, and cpu or cuda. Prints a JSON object of what the tests ask for: of 2 and of 3 processes
with gloo, or of 2 GPUs with NCCL. Processes are forked before torch starts a thread: importing torch takes seconds.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sharded_cases import (
    ALLOWED,
    CASES,
    KERNEL_CASES,
    WEIGHTED_CASES,
    Case,
    call,
    compare,
    expected_of,
    part,
    whole,
)  # fmt: skip

from cce_kernels import Shard, Uniform, linear_cross_entropy, sampled_linear_cross_entropy


def run_case(case, device="cpu", impl="reference"):
    """The largest difference from one process."""
    inputs = whole(case, device)
    shard = Shard(None, case.items)
    own, tokens = part(case, inputs, shard.rows)
    more = {} if case.sampler is None else {"row_offset": torch.tensor([tokens.start], device=device)}
    found = call(case, own, impl, shard=shard, **more)
    found[1] = torch.nan_to_num(found[1])
    return compare(shard.rows, tokens, found, expected_of(case, inputs))


def log_sum_exp():
    """The largest difference of the log-sum-exp of divided scores from that of one process."""
    case = Case(temperature=0.4)
    inputs, shard = whole(case), Shard(None, case.items)
    own, tokens = part(case, inputs, shard.rows)
    found, expected = (
        linear_cross_entropy(x["hidden"], x["weight"], x["targets"], temperature=0.4, return_lse=True, **more)[1]
        for x, more in ((own, {"shard": shard}), (inputs, {}))
    )
    return float((found[: tokens.stop - tokens.start] - expected[tokens]).abs().max())


def gradient_of_token_weights():
    """The largest difference of the gradient of a weighted mean from that of one process."""
    case = Case(weighted=True)
    inputs, shard = whole(case), Shard(None, case.items)
    own, tokens = part(case, inputs, shard.rows)
    gradients = []
    for each, more in ((own, {"shard": shard}), (inputs, {})):
        weights = each["token_weights"].requires_grad_()
        loss = linear_cross_entropy(
            each["hidden"], each["weight"], each["targets"], token_weights=weights, item_weights=each["item_weights"],
            **more,
        )  # fmt: skip
        gradients += torch.autograd.grad(loss, weights)
    mine = gradients[0][: tokens.stop - tokens.start]
    return float((mine - gradients[1][tokens]).abs().max() / gradients[1].abs().max())


def run_recorded(case, device):
    """Whether a CUDA graph with the collectives inside, replayed on other numbers, has the bits of a launched call."""
    inputs = whole(case, device)
    shard = Shard(None, case.items)
    own, tokens = part(case, inputs, shard.rows)
    offset = torch.tensor(tokens.start, device=device)
    more = {} if case.sampler is None else {"row_offset": offset}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call(case, own, "triton", shard=shard, **more)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        recorded = call(case, own, "triton", shard=shard, **more)
    same = []
    for number in range(3):
        own["hidden"].mul_(0.9)
        offset.add_(number)
        graph.replay()
        launched = call(case, own, "triton", shard=shard, **more)
        same.append(all(torch.equal(a, b) for a, b in zip(recorded, launched, strict=True)))
    return all(same)


def run_again():
    """Whether a second run has the same bits, in bf16 too."""
    same = True
    for dtype in (torch.bfloat16, torch.float32):
        case = Case("popularity", dtype=dtype, deterministic=True)
        inputs = whole(case)
        shard = Shard(None, case.items)
        own, tokens = part(case, inputs, shard.rows)
        runs = [call(case, own, shard=shard, row_offset=tokens.start) for _ in range(2)]
        same = same and all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    return same


def errors_of(rank):
    """What is refused, and how; every process must refuse the same calls."""
    shard = Shard(None, 100)
    number = shard.rows.number
    hidden, weight = torch.zeros(4, 8), torch.zeros(number, 8)
    targets = torch.zeros(4, dtype=torch.int64)
    options = {"num_negatives": 3, "seed": 1, "shard": shard}
    calls = {
        "rows": lambda: linear_cross_entropy(hidden, torch.zeros(100, 8), targets, shard=shard),
        "type": lambda: linear_cross_entropy(hidden, weight, targets, shard=3),
        "sparse": lambda: sampled_linear_cross_entropy(hidden, weight, targets, sparse_grad=True, **options),
        "lse": lambda: sampled_linear_cross_entropy(hidden, weight, targets, return_lse=True, **options),
        "predicted": lambda: linear_cross_entropy(hidden, weight, targets, shard=shard, return_predicted=True),
        "tokens": lambda: linear_cross_entropy(
            hidden[: 3 + rank % 2], weight, targets[: 3 + rank % 2], shard=shard, check=True
        ),
        "smoothing": lambda: linear_cross_entropy(hidden, weight, targets, shard=shard, label_smoothing=0.1),
        "items": lambda: linear_cross_entropy(hidden, weight, targets, shard=shard, item_weights=weight[:, 0]),
        "sets": lambda: linear_cross_entropy(hidden, weight, targets[:, None], shard=shard),
        "target": lambda: linear_cross_entropy(hidden, weight, targets + 100, shard=shard, check=True),
        "offset": lambda: sampled_linear_cross_entropy(
            hidden, weight, targets, row_offset=torch.zeros(2, dtype=torch.int64), sampler=Uniform(), **options
        ),
    }
    found = {}
    for name, refused in calls.items():
        try:
            refused()
        except ValueError as error:
            found[name] = str(error)
    return found


def on_cpu(rank):
    found = {str(case): run_case(case) for case in CASES + WEIGHTED_CASES}
    found |= {"token weights": gradient_of_token_weights(), "log-sum-exp": log_sum_exp()}
    found["no tokens"] = no_tokens()
    return {"differences": found, "same": run_again(), "errors": errors_of(rank)}


def on_gpu(rank):
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    cases = [case for case, _ in KERNEL_CASES]
    return {
        "differences": {str(case): run_case(case, device, "triton") / ALLOWED[case.dtype] for case in cases},
        "recorded": {str(case): run_recorded(case, device) for case in cases if case.reduction != "none"},
    }


def work(rank, ranks, kind, store, results):
    backend = {"cpu": "gloo", "cuda": "nccl"}[kind]
    dist.init_process_group(backend, rank=rank, world_size=ranks, store=dist.FileStore(store, ranks))
    mine = {"cpu": on_cpu, "cuda": on_gpu}[kind](rank)
    everyone = [None] * ranks
    dist.all_gather_object(everyone, mine)
    if rank == 0:
        results.put(everyone)
    dist.destroy_process_group()


def no_tokens():
    """A call without tokens in any process: a loss of 0, and zero gradients."""
    shard, worst = Shard(None, 100), 0.0
    for function, options in (
        (linear_cross_entropy, {}), (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1, "sharing": "tile"}),
    ):  # fmt: skip
        weight = torch.ones(shard.rows.number, 8, requires_grad=True)
        loss = function(torch.zeros(0, 8), weight, torch.zeros(0, dtype=torch.int64), shard=shard, **options)
        loss.backward()
        worst = max(worst, float(loss.detach().abs()), float(weight.grad.abs().sum()))
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    report = {}
    folder, kind = sys.argv[1:]
    for number in {"cpu": (2, 3), "cuda": (2,)}[kind]:
        queue = context.SimpleQueue()
        store = str(Path(folder) / f"store-{number}")
        processes = [context.Process(target=work, args=(rank, number, kind, store, queue)) for rank in range(number)]
        for process in processes:
            process.start()
        report[number] = queue.get()
        for process in processes:
            process.join()
    sys.stdout.write(json.dumps(report))
