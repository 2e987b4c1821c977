"""The kernel of the lean optimizers compiles for a Hopper GPU on a machine that has none."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from rec_models.optim.adam_rows import adam_rows_kernel

pointers = {"table": "*fp32", "grad": "*fp32", "first": "*bf16", "step": "*fp32", "last": "*i32"}
names = adam_rows_kernel.arg_names
ways = (128, 128, 16, True, False), (320, 512, 4, False, False), (256, 256, 8, True, True)
for dim, block, rows, rowwise, lazy in ways:
    constants = {"DIM": dim, "BLOCK_DIM": block, "BLOCK_ROWS": rows, "ROWWISE": rowwise, "LAZY": lazy}
    types = pointers | {"second": "*fp32" if rowwise else "*bf16", "items": "i32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if "*" in signature[name]}
    source = ASTSource(adam_rows_kernel, signature, values, aligned)
    ptx = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    assert "ld.global.v4" in ptx, "rows are not read sixteen bytes at a time"
    assert "st.local" not in ptx, "registers spill"
print("compiled")
"""


def test_the_kernel_compiles_for_hopper(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
