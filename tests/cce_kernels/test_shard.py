"""Which process has which row of a sharded table."""

import pytest
import torch

from cce_kernels import Shard
from cce_kernels.shard import Rows


@pytest.mark.parametrize("items", [1, 9, 64, 65, 1003])
@pytest.mark.parametrize("ranks", [1, 2, 3, 64])
def test_every_item_has_one_owner_and_one_row(items, ranks):
    ids = torch.arange(items)
    seen = []
    for rank in range(ranks):
        rows = Rows(items, ranks, rank)
        own = rows.ids()
        assert own.numel() == rows.number
        assert torch.equal(own, own.sort().values)
        local = rows.local(ids)
        assert torch.equal(local[own], torch.arange(rows.number))
        assert int((local >= 0).sum()) == rows.number
        assert torch.equal(rows.of(ids), own)
        seen.append(own)
    assert torch.equal(torch.cat(seen).sort().values, ids)


def test_classes_are_cut_as_torch_chunk_cuts_them():
    """So a DTensor [ceil(V / 64), 64, D] with Shard(1) has the same rows."""
    for ranks in range(1, 65):
        parts = [chunk.tolist() for chunk in torch.arange(64).chunk(ranks)] + [[]] * 64
        for rank in range(ranks):
            first, width = Rows(1000, ranks, rank).classes
            assert list(range(first, first + width)) == parts[rank]


def test_ids_outside_the_catalogue_have_no_row():
    for rank in range(3):
        assert (Rows(100, 3, rank).local(torch.tensor([-100, -1, 100, 127, 2**40])) == -1).all()


def test_there_must_be_a_process_group():
    with pytest.raises(ValueError, match="shard: found no process group"):
        Shard(None, 100)
