"""The kernels compile for Hopper, and fp32 for Ampere too, without a GPU: the interpreter says nothing about that.

One process for all of them: most of the time goes into starting it. The widths are small, where compiling is quick.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import re
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from cce_kernels.full import tuning
from cce_kernels.sampled import tuning as tuning_sampled
from cce_kernels.full.kernels.backward import full_backward_kernel
from cce_kernels.full.kernels.forward import full_forward_kernel
from cce_kernels.full.kernels.state import dot_precision
from cce_kernels.full.kernels.tiles import split_dimension
from cce_kernels.sampled.kernels.shared_backward import _backward
from cce_kernels.sampled.kernels.shared_forward import _forward

TYPES = {
    "hidden": "*bf16", "dhidden": "*bf16", "held": "*bf16", "targets": "*i64", "order": "*i64", "target_tiles": "*i32",
    "scale": "fp32", "softcap": "fp32", "filter_eps": "fp32", "positive_weight": "fp32", "constant_rest": "fp32",
    "seed_ptr": "*i64", "step_ptr": "*i64", "size_ptr": "*i64", "table": "*i64", "row_map": "*i32",
    "scratch_ids": "*i32", **dict.fromkeys(
        ("weight", "bias", "loss", "lse", "lse2", "others", "partial_sum", "partial_reference", "partial_acc", "grad",
         "range_scale", "dweight", "dbias_out", "shift", "pull", "log_q", "log_rest", "dbias"), "*fp32"),
}
SHARED = 227 * 1024


def build(kernel, constants, options, architecture=90, **types):
    types = {**TYPES, **types}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, values, aligned)
    built = compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert built.metadata.shared <= SHARED, built.metadata.shared
    return built.asm["ptx"]


# 80 is 64 + 16: two blocks a row, both by descriptor.
dim0, dim1 = split_dimension(80)
full = {
    "DIM": 80, "DIM0": dim0, "DIM1": dim1, "HAS_BIAS": True, "HAS_SOFTCAP": True, "FILTER": False, "TMA": True,
    "PRECISION": "as they are", "P_SHIFT": 0, "ONE_LOOP": False,
}


def streams(rows):
    return {f"stream{i}": f"tensordesc<bf16[{rows},{width}]>" for i, width in enumerate((dim0, dim1))}


forward, backward = tuning._FULL_SM90[128]
constants = full | {
    "BLOCK_M": forward.block_m, "BLOCK_V": forward.block_v, "WITH_DHIDDEN": True, "SPLIT": True, "ONLINE": False,
}
ptx = build(full_forward_kernel, constants, forward.options(), weight="*bf16", **streams(forward.block_v))
assert "wgmma" in ptx
constants = full | {
    "BLOCK_V": backward.block_v, "BLOCK_M": backward.block_m, "BLOCK_T": 16, "PER_TOKEN": True, "PARTS": 3,
    "STAGED": True,
}
assert "wgmma" in build(full_backward_kernel, constants, backward.options(), **streams(backward.block_m))

# fp32: products of its three bf16 parts, on any architecture that has them.
forward, _ = tuning._FULL_FP32[64]
constants = full | {
    "DIM": 64, "DIM0": 64, "DIM1": 0, "HAS_BIAS": False, "HAS_SOFTCAP": False, "TMA": False, "BLOCK_M": forward.block_m,
    "BLOCK_V": forward.block_v, "WITH_DHIDDEN": True, "SPLIT": False, "ONLINE": False,
    "PRECISION": dot_precision(SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)), "ONE_LOOP": True,
}
wide = dict.fromkeys(("hidden", "dhidden", "stream0", "stream1"), "*fp32")
ptx = build(full_forward_kernel, constants, forward.options(), 80, **wide)
assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in ptx

forward, backward = tuning_sampled.TILE[64]
common = {
    "D": 64, "BLOCK_D": 64, "GROUP_TOKENS": 64, "PARTS": 1, "SOFTMAX": True, "TABLE": 1, "HAS_LOGQ": True,
    "HAS_BIAS": True, "PRECISION": "as they are",
}
options = {"num_warps": forward.num_warps, "num_stages": forward.num_stages}
constants = common | {
    "BLOCK_N": forward.block_n, "BLOCK_T": forward.block_t, "WITH_GRAD": True, "ONLINE": False,
}
assert "wgmma" in build(_forward, constants, options)
options = {"num_warps": backward.num_warps, "num_stages": backward.num_stages}
constants = common | {
    "BLOCK_N": backward.block_n, "BLOCK_T": backward.block_t, "STEPS": backward.steps, "HAS_MAP": False,
    "SCRATCH": False, "HALF": False, "GRAD_STRIDE": 1,
}
ptx = build(_backward, constants, options)
assert "wgmma" in ptx
assert re.search(r"(red|atom)[.a-z0-9:]*v4[.a-z0-9]*f32", ptx), "rows of dW are not added four floats at a time"
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("compiled"), done.stderr[-2000:]
