"""The kernels compile for a Hopper GPU on a machine that has none: the interpreter says nothing about that."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton")

SCRIPT = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from rec_eval.ranking.triton_impl import _TILES
from rec_eval.ranking.kernels import filter
from rec_eval.ranking.kernels import merge

TYPES = {
    "queries": "*bf16", "items": "*bf16", "bias": "*fp32", "floor_scores": "*fp32", "floor_ids": "*i32",
    "counts": "*i32", "found_scores": "*fp32", "found_ids": "*i32", "keys": "*i64", "scores": "*fp32", "ids": "*i32",
    "users": "*i64", "seen_starts": "*i64", "seen_ids": "*i32", "merged": "*i64",
}


def build(kernel, constants, warps, stages):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    # As in a launch: tensors start at multiples of 16 bytes, and so do their rows.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name in TYPES or name in ("query_stride", "item_stride")
    }
    source = ASTSource(kernel, signature, values, aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})


users, items, warps, stages = _TILES[0]
for dim, skip, by_thread in ((256, True, False), (320, False, False), (256, True, True), (64, False, True)):
    dim0, dim1 = filter.split_dimension(dim)
    constants = {
        "DIM": dim, "DIM0": dim0, "DIM1": dim1, "BLOCK_U": users, "BLOCK_V": items,
        "HAS_BIAS": skip, "SKIP_EMPTY": skip, "BY_THREAD": by_thread,
    }
    built = build(filter._filter_kernel, constants, warps, stages)
    assert "wgmma" in built.asm["ptx"], "the product does not use the tensor cores' own instruction"
    estimate = 2 * (dim0 + dim1) * (users + stages * items) + (0 if by_thread else 4 * users * items)
    assert by_thread == ("atom.relaxed.gpu" in built.asm["ptx"]), "survivors are not written as asked"
    assert not by_thread or "convert_layout" not in built.asm["ttgir"], "scores leave the registers of the product"
    assert "cp.async" in built.asm["ptx"], "items are not loaded while others are multiplied"
    assert built.metadata.shared == estimate, (dim, built.metadata.shared, estimate)
build(merge._merge_kernel, {"WIDTH": 1024}, 4, 1)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper_and_fit_as_estimated(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
