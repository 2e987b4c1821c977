"""The kernels of the full loss compile for Hopper without a GPU: the interpreter says nothing about that."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from cce_kernels import tuning
from cce_kernels.kernels.full_backward import full_backward_kernel
from cce_kernels.kernels.full_forward import full_forward_kernel
from cce_kernels.kernels.full_merge import full_merge_kernel
from cce_kernels.kernels.full_tiles import split_dimension

TYPES = {
    "hidden": "*bf16", "weight": "*fp32", "bias": "*fp32", "targets": "*i64", "scale": "fp32", "loss": "*fp32",
    "lse": "*fp32", "lse2": "*fp32", "others": "*fp32", "dhidden": "*bf16", "partial_sum": "*fp32",
    "partial_reference": "*fp32", "partial_acc": "*fp32", "overflow": "*i32", "softcap": "fp32", "filter_eps": "fp32",
    "grad": "*fp32", "range_scale": "*fp32", "order": "*i64", "segments": "*i32", "dweight": "*fp32",
    "dbias_out": "*fp32",
}
SHARED = 227 * 1024


def build(kernel, constants, tiles, **types):
    types = {**TYPES, **types}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name].startswith("*")
    }
    built = compile(
        ASTSource(kernel, signature, values, aligned), target=GPUTarget("cuda", 90, 32), options=tiles.options()
    )
    assert built.metadata.shared <= SHARED, built.metadata.shared
    return built


for dim, extras in ((64, True), (320, False)):
    dim0, dim1 = split_dimension(dim)
    forward, backward = tuning._FULL_SM90[dim]
    common = {
        "DIM": dim, "DIM0": dim0, "DIM1": dim1, "HAS_BIAS": extras, "HAS_SOFTCAP": extras, "FILTER": False,
        "PRECISION": "ieee",
    }
    flags = {"WITH_DHIDDEN": True, "SPLIT": extras, "P_SHIFT": 0}
    for online in (False, True)[: 1 + extras]:  # the usual launch by descriptors, the repair by pointers
        tma = not online
        streams = {
            "stream0": f"tensordesc<bf16[{forward.block_v},{dim0}]>" if tma else "*bf16",
            "stream1": f"tensordesc<bf16[{forward.block_v},{dim1}]>" if tma and dim1 else "*bf16",
        }
        constants = common | flags | {
            "BLOCK_M": forward.block_m, "BLOCK_V": forward.block_v, "ONLINE": online, "REPAIR": online, "TMA": tma,
        }
        built = build(full_forward_kernel, constants, forward, weight="*bf16", **streams)
        assert "wgmma" in built.asm["ptx"]
    streams = {
        "stream0": f"tensordesc<bf16[{backward.block_m},{dim0}]>",
        "stream1": f"tensordesc<bf16[{backward.block_m},{dim1}]>" if dim1 else "*bf16",
    }
    constants = common | {
        "BLOCK_V": backward.block_v, "BLOCK_M": backward.block_m, "BLOCK_T": 16, "PER_TOKEN": extras, "P_SHIFT": 0,
        "PARTS": 3, "TMA": True,
    }
    assert "wgmma" in build(full_backward_kernel, constants, backward, **streams).asm["ptx"]
    if extras:
        constants = {name: common[name] for name in ("DIM", "DIM0", "DIM1", "HAS_BIAS", "HAS_SOFTCAP")}
        build(full_merge_kernel, constants | {"BLOCK_M": 64, "WITH_DHIDDEN": True}, forward, weight="*bf16")
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
