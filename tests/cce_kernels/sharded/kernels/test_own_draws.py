"""The draws of a group whose rows a process has, packed by the kernel."""

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import Popularity, Softmax, Uniform
from cce_kernels.sampled.call import sampled_call
from cce_kernels.sampled.draws import draw_ids, groups_of
from cce_kernels.shard import Rows


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
