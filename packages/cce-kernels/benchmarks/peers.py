"""Measure the full loss of this package and of its peers, each in a process of its own, one table per command.

    python packages/cce-kernels/benchmarks/peers.py twins [--peers ours quack ...] [--points beauty ...]
        [--seconds 230] [--out DIR]

Tables: twins (the catalogues and batches of the paper's five data sets, D 256), grid (V from 1,024 at D 256; D from 64
at V 131,072) and popularity (the ids of popular items spread, or sorted). Peers that are not installed are left out.

All processes compile first, side by side. Then every peer is called at every point, one after the other: the gradients
of that call are compared with float64 on a slice of the tokens and of the items, and only a peer that computes the loss
is timed. Rows are written to peers.csv as they come, and a row that is there with the same revision is not measured
again: a run that was cut off continues. No point is begun after --seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peer_losses import PEERS
from points import PEERS as TABLES
from points import Inputs, Point, make_inputs
from rows import PeerRow, environment, merged, read_as, show, write
from timing import durations_ms, need_gpu, peak_extra_bytes
from torch import Tensor

Numbers = dict[str, Any]
WARM_SECONDS = 90.0  # for all compilations
PATIENCE_SECONDS = 45.0  # for one measurement
ENDED = ("no answer", "its process ended")  # notes of rows that are measured again
LARGEST_ERROR = 0.5  # of a gradient; a filtered one is up to 0.1 off


@dataclass(frozen=True)
class Truth:
    """The mean loss in float64, and slices of its gradients."""

    loss: float
    tokens: Tensor  # [T] ids
    dhidden: Tensor  # [T, D]
    items: Tensor  # [I] ids
    dweight: Tensor  # [I, D]


def true_slices(inputs: Inputs, size: int = 1024) -> Truth:
    """The loss of all tokens in float64, dH of `size` tokens, dW of about `size` items; half of them are targets."""
    hidden, targets = inputs.hidden.detach().double(), inputs.targets
    weight = inputs.weight.detach().double()
    number, device = len(hidden), hidden.device
    tokens = torch.arange(0, number, max(1, number // size), device=device)[:size]
    others = torch.arange(0, len(weight), max(1, 2 * len(weight) // size), device=device)[: size // 2]
    items = torch.cat((targets[: size // 2], others)).unique()
    chunk = max(1, 400_000_000 // len(weight))  # of tokens: 3.2 GB of scores
    lse = torch.cat([torch.logsumexp(part @ weight.T, 1) for part in hidden.split(chunk)])
    loss = (lse - (hidden * weight[targets]).sum(1)).mean().item()
    p = torch.exp(hidden[tokens] @ weight.T - lse[tokens, None])
    p[torch.arange(len(tokens), device=device), targets[tokens]] -= 1
    dhidden = p @ weight / number
    del p
    q = torch.exp(hidden @ weight[items].T - lse[:, None]) - (targets[:, None] == items).double()
    return Truth(loss, tokens, dhidden, items, q.T @ hidden / number)


def errors(loss: Tensor, gradients: tuple[Tensor, ...], truth: Truth) -> dict[str, float]:
    """Relative errors of the loss and, in the Euclidean norm, of the gradients."""
    dhidden, dweight = gradients[0][truth.tokens], gradients[1][truth.items]
    pairs = {"dhidden_error": (dhidden, truth.dhidden), "dweight_error": (dweight, truth.dweight)}
    found = {name: ((mine.double() - true).norm() / true.norm()).item() for name, (mine, true) in pairs.items()}
    return {"loss_error": abs(loss.item() / truth.loss - 1), **found}


def measure(peer: str, point: Point, folder: Path, device: str = "cuda") -> Numbers:
    """Error, times and memory of one peer at one point; what fails becomes a note."""
    numbers: Numbers = {}
    try:
        inputs = make_inputs(point, device)

        def call() -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = PEERS[peer].loss(inputs, point)
            return loss.detach(), torch.autograd.grad(loss, (inputs.hidden, inputs.weight))

        loss, gradients = call()
        truth = Truth(**torch.load(folder / "truth.pt", map_location=device, weights_only=True))
        numbers = errors(loss, gradients, truth)
        del loss, gradients, truth
        if not max(numbers.values()) < LARGEST_ERROR:  # NaN too
            return {**numbers, "note": "not timed: its gradient is wrong"}
        times = durations_ms(call, repeats=11, budget_ms=500)
        numbers |= {"median_ms": times[len(times) // 2], "fastest_ms": times[0], "slowest_ms": times[-1]}
        numbers |= {"repeats": len(times), "peak_extra_mib": peak_extra_bytes(call) / 2**20}
    except Exception as error:
        numbers["note"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return numbers


def compile_for(peer: str, point: Point) -> Numbers:
    """Call a peer once, so that its kernels are compiled."""
    inputs = make_inputs(point)
    torch.autograd.grad(PEERS[peer].loss(inputs, point), (inputs.hidden, inputs.weight))
    torch.cuda.synchronize()
    return {}


def serve(peer: str, connection: Connection, folder: Path) -> None:
    """Answer the requests of `Process`; ends with the connection, or where the GPU's context is lost."""
    while True:
        try:
            what, point = connection.recv()
        except EOFError:
            return
        try:
            answer = compile_for(peer, point) if what == "compile" else measure(peer, point, folder)
        except Exception as error:
            answer = {"note": f"{type(error).__name__}: {str(error)[:200]}"}
        connection.send(answer)
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception:
            return


class Process:
    """One peer in a process of its own, which is started again where it has ended."""

    def __init__(self, peer: str, folder: Path, target: Callable[..., None] = serve) -> None:
        self._arguments, self._target = (peer, folder), target
        self._process: Any = None
        self._connection: Any = None

    @property
    def alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process is not None and self._process.is_alive()

    def ask(self, what: str, point: Point) -> None:
        """Send a request."""
        if not self.alive:
            context = torch.multiprocessing.get_context("spawn")
            peer, folder = self._arguments
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=self._target, args=(peer, theirs, folder), daemon=False)
            self._process.start()
            theirs.close()
        self._connection.send((what, point))

    def answer(self, seconds: float) -> Numbers:
        """The answer to a request; a process that gives none in time is ended."""
        try:
            if self._connection.poll(seconds):
                answer: Numbers = self._connection.recv()
                return answer
            note = f"no answer within {seconds:.0f} s"
        except (EOFError, OSError):
            note = "its process ended"
        self.end()
        return {"note": note}

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def compile_all(jobs: dict[str, list[Point]], processes: dict[str, Process], seconds: float) -> None:
    """Let every process compile for its points, side by side. Who needs longer is ended, and compiles when measured."""
    deadline = time.perf_counter() + seconds
    asked = [
        (peer, point)
        for peer, points in jobs.items()
        for point in points
        # Eager torch has nothing to compile, and its logits might not fit beside the others.
        if peer != "eager torch" and point.items % PEERS[peer].multiple == 0
    ]
    for peer, point in asked:
        processes[peer].ask("compile", point)
    ended = set()
    for peer, point in asked:
        if peer in ended:
            continue
        answer = processes[peer].answer(max(0.0, deadline - time.perf_counter()))
        if answer:
            print(f"compiling {peer} at {point.name}: {answer['note']}", flush=True)
        if not processes[peer].alive:
            ended.add(peer)


def main() -> None:
    """Compile side by side, measure one after the other, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="all by default")
    parser.add_argument("--points", nargs="+", help="names of points; all by default")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no point after this many seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    started = time.perf_counter()
    who = environment()
    versions = {peer: PEERS[peer].versions() for peer in arguments.peers}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "peers.csv"
    rows = read_as(PeerRow, path)
    there = {
        (row.peer, row.point)
        for row in rows
        if (row.gpu, row.revision) == (who["gpu"], who["revision"]) and not row.note.startswith(ENDED)
    }
    points = [x for x in TABLES[arguments.table] if not arguments.points or x.name in arguments.points]
    jobs = {
        peer: [point for point in points if PEERS[peer].wants(point) and (peer, point.name) not in there]
        for peer, installed in versions.items()
        if installed is not None
    }
    print("not installed:", [peer for peer, installed in versions.items() if installed is None], flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = {peer: Process(peer, folder) for peer in jobs}
        try:
            compile_all(jobs, processes, WARM_SECONDS)
            print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
            for point in points:
                asked = [peer for peer in jobs if point in jobs[peer]]
                if not asked:
                    continue
                if time.perf_counter() - started > arguments.seconds:
                    print(f"out of time before {point.name}")
                    break
                torch.save(vars(true_slices(make_inputs(point))), folder / "truth.pt")
                torch.cuda.empty_cache()
                for peer in asked:
                    processes[peer].ask("measure", point)
                    row = PeerRow(
                        **who, packages=versions[peer] or "", peer=peer, point=point.name, scores=point.scores,
                        popularity=point.popularity, M=point.tokens, V=point.items, D=point.dim, dtype=point.dtype,
                        **processes[peer].answer(PATIENCE_SECONDS),
                    )  # fmt: skip
                    rows = merged(rows, row)
                    write(path, rows)
                    print(f"{time.perf_counter() - started:4.0f} s", show(row), flush=True)
        finally:
            for process in processes.values():
                process.end()


if __name__ == "__main__":
    main()
