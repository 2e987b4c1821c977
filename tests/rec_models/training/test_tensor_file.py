import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rec_models.training import tensor_file

TENSORS = {
    "table": torch.arange(15, dtype=torch.float32).reshape(5, 3),
    "turned": torch.arange(6).reshape(2, 3).T,
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "one": torch.tensor(7, dtype=torch.int32),
    "empty": torch.empty(0, 4, dtype=torch.float16),
    "flags": torch.tensor([True, False, True]),
}


def written(path, *arguments):
    with path.open("wb") as file:
        tensor_file.write(file, {"größe": 'a "text"'}, *arguments)
    return path


def test_the_library_reads_what_is_written(tmp_path):
    path = written(tmp_path / "file", TENSORS)
    found = load_file(path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"größe": 'a "text"'}
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0


def test_ranges_of_rows_make_the_same_file(tmp_path):
    whole = written(tmp_path / "whole", TENSORS).read_bytes()
    shapes = {name: tensor.to("meta") for name, tensor in TENSORS.items()}
    assert written(tmp_path / "ranges", shapes, lambda name: TENSORS[name].reshape(-1).split(2)).read_bytes() == whole
    with pytest.raises(ValueError, match="parts: found 48 bytes for table, allowed: 60"):
        written(tmp_path / "short", shapes, lambda name: [TENSORS[name][:4]])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mapped files of this process from /proc")
def test_tensors_are_views_of_the_file_and_do_not_change_it(tmp_path):
    path = written(tmp_path / "file", {"table": torch.zeros(64, 64)})
    before = path.read_bytes()
    (table,) = tensor_file.read(path)[1].values()
    assert str(path) in Path("/proc/self/maps").read_text()
    table[0] = 1
    assert float(table.sum()) == 64
    assert path.read_bytes() == before
