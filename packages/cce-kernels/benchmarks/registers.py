"""Compile the kernels of a loss for a GPU that is not there, and tell their registers, spills and loop lengths.

    python packages/cce-kernels/benchmarks/registers.py [--dims 64 256] [--dtypes bfloat16 float32]
        [--operations full sampled] [--architecture 90]

The package is told that it sees an H100, or another architecture; nothing is run. ptxas reports registers,
bytes of spills, and whether it makes the matrix products of a kernel wait for one another (C7510 ... C7519); the
disassembly gives the instructions of the longest loop.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from points import Point

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class NoDevice:
    """A driver that sees a GPU of one architecture and can launch nothing."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0

    def get_current_target(self) -> Any:
        """The architecture, with warps of 32."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)


def longest_loop(sass: str) -> int:
    """Instructions of the longest loop of a disassembled kernel."""
    labels: dict[str, int] = {}
    count = longest = 0
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]+\*/\s+\S", line):
            count += 1
            jump = re.search(r"BRA.*?(\.L_x_\d+)", line)
            if jump and jump[1] in labels:
                longest = max(longest, count - labels[jump[1]])
    return longest


def describe(name: str, compiled: Any) -> str:
    """One line about a compiled kernel."""
    architecture = compiled.metadata.target.arch
    suffix = "a" if architecture >= 90 else ""
    ptxas = "ptxas-blackwell" if architecture >= 100 else "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder) / "k.ptx", Path(folder) / "k.cubin"
        ptx.write_text(compiled.asm["ptx"])
        command = [TOOLS / ptxas, "-v", f"--gpu-name=sm_{architecture}{suffix}", ptx, "-o", cubin]
        if "maxnreg" in compiled.metadata._fields and compiled.metadata.maxnreg:
            command.insert(1, f"--maxrregcount={compiled.metadata.maxnreg}")
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr  # noqa: S603
        command = [TOOLS / "nvdisasm", "-c", cubin]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found = (re.search(pattern, said) for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill st", r"\((C75\d\d)\)"))
    registers, spilled, waits = ("" if match is None else match[1] for match in found)
    return (
        f"  {name:24} registers {registers:>3}  spilled {spilled:>4} B  "
        f"shared {compiled.metadata.shared // 1024:>3} KiB  loop {longest_loop(listed.stdout):>5} instructions"
        f"{f'  products one by one ({waits})' if waits else ''}"
    )


def watch(architecture: int, see: Callable[[str, Any], None]) -> None:
    """Compile in the place of launching, and show every new kernel, with its name, to `see`."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(NoDevice(architecture))
    launch, seen = JITFunction.run, []

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
        if not any(compiled is other for other in seen):
            seen.append(compiled)
            see(self.__name__, compiled)
        return compiled

    JITFunction.run = run


def pretend(architecture: int) -> None:
    """Make the package look up the tiles of an architecture for tensors on a CPU, and launch there.

    The number of multiprocessors is that of an H100: it decides into how many parts work is split, and nothing else.
    """
    from cce_kernels import hardware, validation

    for name, value in (("is_interpreted", False), ("device_properties", (architecture, 132))):
        original = getattr(hardware, name)
        for module in [x for key, x in sys.modules.items() if key.startswith("cce_kernels")]:
            if getattr(module, name, None) is original:
                setattr(module, name, lambda *_, _value=value: _value)
    validation.INTERPRETER = True  # tensors are on the CPU


def compile_point(point: Point) -> None:
    """Compile what one forward and backward at a point launches, with fewer tokens."""
    from losses import available, ours_full
    from points import make_inputs

    small = Point(point.name, 4096, 8192, point.dim, point.negatives, point.scores, point.dtype, point.weight_dtype)
    inputs = make_inputs(small, "cpu")
    for variant in ("ours",) if point.op == "full" else ("ours, sharing tile", "ours, sharing none"):
        print(f" {point.op} {variant}, D {point.dim}, {point.dtype}, {point.weight_dtype} table", flush=True)
        loss_of = partial(ours_full, impl="triton") if point.op == "full" else available()[point.op][variant]
        torch.autograd.grad(loss_of(inputs, small), (inputs.hidden, inputs.weight))


def main() -> None:
    """Compile what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--operations", nargs="+", default=["full", "sampled"])
    parser.add_argument("--architecture", type=int, default=90, help="compute capability, 90 for an H100")
    arguments = parser.parse_args()
    points = [
        Point(f"d{dim}", 0, 0, dim, 511 * (op == "sampled"), dtype=dtype, weight_dtype=dtype)
        for op in arguments.operations
        for dim in arguments.dims
        for dtype in arguments.dtypes
    ]
    watch(arguments.architecture, lambda name, compiled: print(describe(name, compiled), flush=True))
    pretend(arguments.architecture)
    for point in points:
        try:
            compile_point(point)
        except Exception as error:
            print(f"  {type(error).__name__}: {str(error).splitlines()[0][:150]}")


if __name__ == "__main__":
    main()
