"""The study of specialized warps compiles for a Hopper GPU on a machine that has none, its sums in registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.experimental.gluon")

FOLDER = Path(__file__).parents[2] / "packages/cce-kernels/benchmarks"
SCRIPT = """
import re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
import gluon_forward

def spilled(dim, grad):
    items, stages = gluon_forward.RINGS[dim][0 if grad else 1]
    wide = dim > 256 and grad
    kernel = gluon_forward.wide_forward_kernel if wide else gluon_forward.forward_kernel
    rows, width = (items // 2, dim // 2) if wide else (items, dim)
    constants = {"D": dim, "BLOCK_V": items, "STAGES": stages, "GRAD": grad, "REGISTERS": 240, "COPY_REGISTERS": 24}
    types = {"hidden": "*bf16", "weight": "*bf16", "targets": "*i64", "num_tokens": "i32", "num_items": "i32"}
    for name, height in (("hidden_tiles", 64), ("weight_tiles", rows)):
        layout = gl.NVMMASharedLayout.get_default_for([height, width], gl.bfloat16)
        types[name] = f"tensordesc<bf16[{height}, {width}],{layout!r}>"
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
    values = {name: value for name, value in constants.items() if name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "*" in signature[name]}
    source = GluonASTSource(kernel, signature, values, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    ptx = compiled.asm["ptx"]
    assert "setmaxnreg.inc" in ptx and "wgmma.mma_async" in ptx and "cp.async.bulk.tensor" in ptx
    assert compiled.metadata.shared <= 227 * 1024
    file = Path(tempfile.mkdtemp()) / "kernel.ptx"
    file.write_text(ptx)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    command = [tool, "-v", "--gpu-name=sm_90a", file, "-o", file.with_suffix(".cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert not re.search(r"C75\\d\\d", said), said
    return int(re.search(r"(\\d+) bytes spill stores", said)[1])

for dim, grad, most in ((256, True, 0), (512, True, 64)):
    assert spilled(dim, grad) <= most, dim
print("compiled")
"""


@pytest.mark.slow
def test_it_compiles_for_hopper_without_spilling_its_sums(tmp_path):
    paths = [str(FOLDER), *sys.path]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
