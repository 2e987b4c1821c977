"""Attention: all ways of computing it agree, forward and backward."""

import pytest
import torch

from rec_models.encoders.packing import layout_of, padded_layout_of
from rec_models.encoders.transformer import attend

WIDTH = 9


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "lengths", [[3], [4, 4], [9, 1, 5, 2], [1, 7, 7, 2, 9, 3, 3, 8, 1, 6, 4, 2, 5, 9, 1, 1, 2, 3, 6]]
)
def test_histories_of_similar_length_in_blocks_are_a_padded_batch(lengths: list[int], causal: bool):
    torch.manual_seed(0)
    packed, padded = layout_of(torch.tensor(lengths)), padded_layout_of(torch.tensor(lengths), WIDTH)
    qkv = torch.randn(sum(lengths), 3, 2, 8, dtype=torch.float64, requires_grad=True)
    wide = torch.zeros(len(lengths) * WIDTH, 3, 2, 8, dtype=torch.float64)
    places = layout_of(torch.tensor(lengths), WIDTH).places
    found = attend(qkv, packed, causal=causal)
    expected = attend(wide.index_copy(0, places, qkv), padded, causal=causal)[places]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(out, qkv, upstream)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)
