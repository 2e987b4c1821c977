"""Every entry of the tables of tiles fits the shared memory of a block, on each architecture that uses it.

The kernels are compiled for the architecture without a GPU, as `benchmarks/registers.py` does it, up to the point where
their shared memory is known: ptxas is left out. One process an architecture: most of the time goes into compiling.
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
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from registers import pretend, watch
from triton.backends.nvidia.compiler import CUDABackend

architecture = int(sys.argv[1])
CUDABackend.make_cubin = lambda *_: b"not needed"
folder = tempfile.mkdtemp(dir=sys.argv[2])
shutil.copytree(Path(find_spec("cce_kernels").origin).parent, Path(folder) / "cce_kernels")
pretend(Path(folder), architecture)
sys.path.insert(0, folder)
found = []
watch(architecture, lambda name, compiled: found.append((name, compiled.metadata.shared)))

from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy, validation
from cce_kernels.full import tuning
from cce_kernels.sampled import tuning as tuning_sampled

validation.INTERPRETER = True  # tensors are on the CPU
used = {}
for module, name in ((tuning, "full_tiles"), (tuning_sampled, "tile_tiles"), (tuning_sampled, "gather_tiles")):
    def look_up(*arguments, _of=getattr(module, name), _name=name):
        tiles = _of(*arguments)
        used.setdefault(_name, set()).add(str(tiles))
        return tiles
    setattr(module, name, look_up)

results = []
for hidden_dtype, weight_dtype in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
    # One width an entry; 320 has one of its own on sm_90 alone.
    for dim in (64, 128, 256, 320, 512) if architecture == 90 else (64, 128, 256, 512):
        hidden = torch.zeros(256, dim, dtype=hidden_dtype, requires_grad=True)
        weight = torch.zeros(512, dim, dtype=weight_dtype, requires_grad=True)
        targets = torch.zeros(256, dtype=torch.int64)
        options = {"reduction": "none", "impl": "triton"}
        sampled = {"num_negatives": 100, "seed": 1, **options}
        found.clear()
        if dim <= tuning.widest(hidden_dtype):
            linear_cross_entropy(hidden, weight, targets, **options).sum().backward()
        sampled_linear_cross_entropy(hidden, weight, targets, sharing="tile", **sampled).sum().backward()
        sampled_linear_cross_entropy(hidden, weight, targets, **sampled).sum().backward()
        results += [[str(hidden_dtype), dim, name, shared] for name, shared in found]
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
        [sys.executable, str(script), str(architecture), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    limit = LIMITS[architecture] * 1024
    too_large = [kernel for kernel in answer["kernels"] if kernel[-1] > limit]
    assert not too_large
    assert max(shared for *_, shared in answer["kernels"]) > 32 * 1024  # the large ones were among them
    # No entry that this architecture looks up is left out.
    full = {
        80: (tuning._FULL_SM80, tuning._FULL_FP32), 90: (tuning._FULL_SM90, tuning._FULL_FP32_SM90)
    }.get(architecture, (tuning._FULL_SAFE, tuning._FULL_FP32))  # fmt: skip
    large = architecture in tuning_sampled._LARGE_SHARED_MEMORY
    sampled = (
        (tuning_sampled.TILE, tuning_sampled.TILE_FP32) if large
        else (tuning_sampled.TILE_SAFE, tuning_sampled.TILE_FP32_SAFE)
    )  # fmt: skip
    for name, tables in (("full_tiles", full), ("tile_tiles", sampled), ("gather_tiles", (tuning_sampled.NONE,))):
        assert {str(pair) for table in tables for pair in table.values()} == set(answer["used"][name])
