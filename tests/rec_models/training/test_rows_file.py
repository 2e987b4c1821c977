"""Rows of a sharded table in a file, read by any number of processes; how they are written is in test_ranks.py."""

import pytest
import torch

from cce_kernels.shard import Rows
from rec_models.errors import CheckpointError
from rec_models.training import tensor_file
from rec_models.training.rows_file import _sums, read_rows
from rec_models.training.run_state import Resumed, RunState, Tensors


@pytest.mark.parametrize("items", [64, 130, 203])
def test_every_number_of_processes_reads_its_rows_and_finds_damage(tmp_path, items):
    path, whole = tmp_path / "rows", {"a": torch.randn(items, 3), "b": torch.randn(items, 1).bfloat16()}
    sums = {name: _sums(values, Rows(items, 1, 0)).tolist() for name, values in whole.items()}
    with path.open("wb") as file:
        tensor_file.write(file, {}, whole)
    for ranks in (1, 2, 3, 5):
        for rank in range(ranks):
            rows = Rows(items, ranks, rank)
            for name, values in read_rows(path, rows, sums).items():
                assert torch.equal(values, rows.of(whole[name]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last item
    path.write_bytes(bytes(content))
    owner = Rows(items, 3, next(rank for rank in range(3) if items - 1 in Rows(items, 3, rank).ids()))
    with pytest.raises(CheckpointError, match="damaged: b fails its checksum"):
        read_rows(path, owner, sums)
    state = Resumed(RunState(), Tensors({}, {}, {}, {}), tmp_path / "last.ckpt", {"file": path.name, "sums": sums})
    with pytest.raises(CheckpointError, match=r"checksum; rm .*last\.ckpt resumes from the state before it"):
        state.own(0, owner)
    path.write_bytes(b"no file of rows")
    with pytest.raises(CheckpointError, match="damaged"):
        read_rows(path, owner, sums)
