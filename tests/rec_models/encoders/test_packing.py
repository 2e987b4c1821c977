from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_models.encoders.packing import blocks_of, layout_of, padded_layout_of

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 2))
def test_packing_keeps_each_history_in_order_and_nothing_else(lengths, extra):
    width = max(lengths) + extra
    layout = layout_of(torch.tensor(lengths), width)
    padded = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width)
    packed = layout.pack(padded)
    assert packed.tolist() == [int(padded[row, place]) for row, length in enumerate(lengths) for place in range(length)]
    back = layout.pad(packed)
    for row, length in enumerate(lengths):
        assert back[row].tolist() == [*padded[row, :length].tolist(), *[0] * (width - length)]
        assert packed[layout.starts[row] : layout.starts[row + 1]].tolist() == padded[row, :length].tolist()
        assert packed[layout.ends[row]] == padded[row, length - 1]
    assert layout.from_end.tolist() == [length - 1 - place for length in lengths for place in range(length)]
    mask = layout.key_mask()
    assert (mask is None) == all(length == width for length in lengths)
    assert mask is None or mask.sum((1, 2, 3)).tolist() == lengths


@settings(deadline=None)
@given(LENGTHS)
def test_a_layout_with_padding_points_at_the_same_places(lengths):
    width = max(lengths)
    layout, packed = padded_layout_of(torch.tensor(lengths), width), layout_of(torch.tensor(lengths), width)
    grid = layout.pad(torch.arange(len(lengths) * width))
    assert [int(grid.flatten()[end]) for end in layout.ends] == [r * width + n - 1 for r, n in enumerate(lengths)]
    assert layout.key_mask().sum((1, 2, 3)).tolist() == lengths
    assert layout.from_end[packed.places].tolist() == packed.from_end.tolist()
    assert layout.starts.tolist() == [width * row for row in range(len(lengths) + 1)]


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_blocks_hold_every_history_once_from_the_shortest_to_the_longest(lengths, most):
    layout = layout_of(torch.tensor(lengths))
    places, order, ordered, shapes = blocks_of(layout, most)
    assert len(shapes) <= most
    flat = torch.full((sum(rows * width for rows, width in shapes),), -1)
    flat[places] = torch.arange(sum(lengths))
    found = []
    for part, (rows, width) in zip(flat.split([rows * width for rows, width in shapes]), shapes, strict=True):
        assert part.view(rows, width).ge(0).any(0).all()  # no wider than its longest history
        found += [[place for place in row if place >= 0] for row in part.view(rows, width).tolist()]
    assert list(map(len, found)) == sorted(lengths) == ordered.tolist()
    starts = layout.starts.tolist()
    assert found == [list(range(*list(pairwise(starts))[row])) for row in order.tolist()]
