"""Kernels compile for each architecture, and every entry of the tables of tiles fits the shared memory of a block.

The kernels are compiled for the architecture without a GPU, as `benchmarks/registers.py` does it, up to the point where
their shared memory is known; where instructions are looked at, up to PTX. One process per architecture compiles every
entry once per dtype.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

BENCHMARKS = Path(__file__).parents[2] / "packages/cce-kernels/benchmarks"
# KiB of shared memory that a block may ask for. sm_86 stands for all that look up the safe tables.
LIMITS = {80: 163, 86: 99, 90: 227}

SCRIPT = """
import json
import re
import sys

import torch
from registers import pretend, watch
from triton.backends.nvidia import compiler

from cce_kernels import BCE, Popularity, linear_cross_entropy, sampled_linear_cross_entropy
from cce_kernels.full import tuning
from cce_kernels.sampled import tuning as tuning_sampled

architecture = int(sys.argv[1])
READ = {(80, torch.float32, 64), (80, torch.float32, 128), (90, torch.bfloat16, 64)}  # whose instructions are looked at
compiler.CUDABackend.make_cubin = lambda *_: b"not needed"
make_llir, make_ptx = compiler.CUDABackend.make_llir, compiler.CUDABackend.make_ptx
read = False


def make_llir_to_read(backend, source, metadata, options, capability):
    if read:
        return make_llir(backend, source, metadata, options, capability)
    passes = compiler.ir.pass_manager(source.context)  # those of make_llir up to the one that gives shared memory
    compiler.passes.ttgpuir.add_combine_tensor_select_and_if(passes)
    compiler.passes.ttgpuir.add_allocate_warp_groups(passes)
    compiler.passes.convert.add_scf_to_cf(passes)
    compiler.passes.gluon.add_inliner(passes)
    version = compiler.get_ptx_version_from_options(options, backend.target.arch)
    compiler.nvidia.passes.ttgpuir.add_allocate_shared_memory_nv(passes, capability, version)
    passes.run(source, "shared memory")
    metadata |= dict.fromkeys(("tmem_size", "global_scratch_size", "profile_scratch_size"), 0)
    metadata |= {"shared": source.get_int_attr("ttg.shared"), "global_scratch_align": 1, "profile_scratch_align": 1}
    return ""


def make_ptx_to_read(backend, source, metadata, *arguments):
    if read:
        return make_ptx(backend, source, metadata, *arguments)
    metadata["name"] = "not needed"
    return ""


compiler.CUDABackend.make_llir, compiler.CUDABackend.make_ptx = make_llir_to_read, make_ptx_to_read
pretend(architecture)
found = []
INSTRUCTIONS = {
    "wgmma": "wgmma",
    "mma of bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "atomics of four floats": r"(red|atom)[.a-z0-9:]*v4[.a-z0-9]*f32",
}


def see(name, compiled):
    ptx = compiled.asm["ptx"]
    used = [label for label, pattern in INSTRUCTIONS.items() if re.search(pattern, ptx)]
    found.append((name, used, compiled.metadata.shared))


watch(architecture, see)
used = {}
for module, name in ((tuning, "full_tiles"), (tuning_sampled, "shared_tiles"), (tuning_sampled, "per_token_tiles")):
    def look_up(*arguments, _of=getattr(module, name), _name=name):
        tiles = _of(*arguments)
        used.setdefault(_name, set()).add(str(tiles))
        return tiles
    setattr(module, name, look_up)

results = []
popularity = Popularity(torch.ones(512))
for hidden_dtype, weight_dtype in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
    # One width per entry; 320 has its own on sm_90 alone.
    for dim in (64, 128, 256, 320, 512) if architecture == 90 else (64, 128, 256, 512):
        read = (architecture, hidden_dtype, dim) in READ
        hidden = torch.zeros(256, dim, dtype=hidden_dtype, requires_grad=True)
        weight = torch.zeros(512, dim, dtype=weight_dtype, requires_grad=True)
        bias = torch.zeros(512, requires_grad=True)
        targets = torch.zeros(256, dtype=torch.int64)
        options = {"reduction": "none", "impl": "triton"}
        sampled = {"num_negatives": 100, "seed": 1, **options}
        more = [{}, {}]
        if dim == 64:  # every branch compiles somewhere
            more = [{"bias": bias, "softcap": 3.0}, {"bias": bias, "sampler": popularity, "objective": BCE()}]
        if dim == 128:
            more = [{"filter_eps": 0.1}, {"sampler": popularity, "deterministic": True}]
        found.clear()
        if dim <= tuning.widest(hidden_dtype):
            linear_cross_entropy(hidden, weight, targets, **options, **more[0]).sum().backward()
        for sharing in ("tile", "none"):
            loss = sampled_linear_cross_entropy(hidden, weight, targets, sharing=sharing, **sampled, **more[1])
            loss.sum().backward()
        results += [[str(hidden_dtype), dim, *kernel] for kernel in found]
print(json.dumps({"kernels": results, "used": {name: sorted(tiles) for name, tiles in used.items()}}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", LIMITS)
def test_every_entry_fits_a_block(architecture, tmp_path):
    from cce_kernels.full import tuning
    from cce_kernels.sampled import tuning as tuning_sampled

    path = os.pathsep.join((str(BENCHMARKS), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(architecture)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    limit = LIMITS[architecture] * 1024
    too_large = [kernel for kernel in answer["kernels"] if kernel[-1] > limit]
    assert not too_large
    assert max(shared for *_, shared in answer["kernels"]) > 32 * 1024  # the large ones were among them
    # The products run on the tensor cores, and rows of dW are added four floats at a time.
    for dtype, dim, name, instructions, _ in answer["kernels"]:
        if (architecture, dtype, dim) == (90, "torch.bfloat16", 64) and name.startswith(("full_f", "full_b", "shared")):
            assert "wgmma" in instructions, name
        if (architecture, dtype, name) == (80, "torch.float32", "full_forward_kernel") and dim <= 128:
            assert "mma of bf16" in instructions, dim
        if (architecture, dtype, dim, name) == (90, "torch.bfloat16", 64, "shared_backward_kernel"):
            assert "atomics of four floats" in instructions
    # No entry that this architecture looks up is left out.
    full = {
        80: (tuning._FULL_SM80, tuning._FULL_FP32), 90: (tuning._FULL_SM90, tuning._FULL_FP32_SM90)
    }.get(architecture, (tuning._FULL_SAFE, tuning._FULL_FP32))  # fmt: skip
    large = architecture in tuning_sampled._LARGE_SHARED_MEMORY
    sampled = (
        (tuning_sampled.SHARED, tuning_sampled.SHARED_FP32) if large
        else (tuning_sampled.SHARED_SAFE, tuning_sampled.SHARED_FP32_SAFE)
    )  # fmt: skip
    for name, tables in (
        ("full_tiles", full),
        ("shared_tiles", sampled),
        ("per_token_tiles", (tuning_sampled.PER_TOKEN,)),
    ):
        assert {str(pair) for table in tables for pair in table.values()} == set(answer["used"][name])
