"""Which process has which row, and how its draws are packed."""

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import Popularity, Shard, Softmax, Uniform
from cce_kernels.sampled.call import sampled_call
from cce_kernels.sampled.draws import draw_ids, groups_of
from cce_kernels.sharded.shard import Rows


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
def test_own_draws_are_packed_in_their_order(device, sharing):
    """More slots than the kernel draws at once, and a row offset that only the device knows."""
    from cce_kernels.sharded.kernels.own_draws import pack_own_draws

    items, negatives, tokens = 5003, 300, 10
    sampler = Uniform() if sharing == "none" else Popularity(torch.arange(1.0, items + 1).to(device))
    offset = torch.tensor(13, device=device)
    call = sampled_call(
        torch.zeros(tokens, 16, device=device), torch.zeros(items, 16, device=device), None,
        torch.zeros(tokens, dtype=torch.int64, device=device), sampler, Softmax(), 7, 2, num_negatives=negatives,
        groups=groups_of(tokens, sharing, 8, offset), ignore_index=-100, deterministic=False,
        row_offset=None if sharing == "batch" else offset,
    )  # fmt: skip
    drawn = draw_ids(call.source, call.seed, call.step, call.groups, 0, call.num_groups, negatives)
    for rank in range(3):
        rows = Rows(items, 3, rank)
        found, counts = pack_own_draws(call, rows)
        assert found.shape[0] == (1 if sharing == "batch" else call.num_groups)
        for ids, packed, count in zip(rows.local(drawn), found, counts.tolist(), strict=False):
            assert torch.equal(packed[:count].long(), ids[ids >= 0])
