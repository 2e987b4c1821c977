"""What the launchers of the full loss decide: widths of blocks, tiles, splits, and the order of targets."""

import pytest
import torch

from cce_kernels import hardware
from cce_kernels.full import tuning
from cce_kernels.full.kernels.targets import sort_by_tile
from cce_kernels.full.kernels.tiles import split_dimension

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(("dtype", "limit"), [(BF16, 512), (FP16, 512), (FP32, 256)])
def test_dimension_limit_is_named(dtype: torch.dtype, limit: int) -> None:
    tuning.full_tiles(torch.device("cpu"), dtype, limit)
    with pytest.raises(ValueError, match=f"hidden has {limit + 1} columns of {dtype}; .* up to {limit}"):
        tuning.full_tiles(torch.device("cpu"), dtype, limit + 1)


@pytest.mark.parametrize(("dim", "expected"), [(16, (16, 0)), (20, (32, 0)), (64, (64, 0)), (100, (128, 0)),
                                               (128, (128, 0)), (192, (128, 64)), (320, (256, 64)), (512, (512, 0)),
                                               (1, (16, 0)), (80, (64, 16))])  # fmt: skip
def test_dimensions_are_split_with_little_padding(dim: int, expected: tuple[int, int]) -> None:
    assert split_dimension(dim) == expected


@pytest.mark.parametrize(("dim", "expected"), [(128, (128, 0)), (130, (128, 16)), (200, (128, 128)), (256, (128, 128))])
def test_no_block_is_wider_than_wanted(dim: int, expected: tuple[int, int]) -> None:
    assert split_dimension(dim, 128) == expected


@pytest.mark.parametrize(
    ("programs", "partial_mib", "expected"),
    [
        (132, 1, 1),  # one wave, full
        (256, 32, 1),  # two waves, nearly full
        (2, 1, 16),  # a chip nearly empty: as many parts as there may be
        (133, 1, 7),  # one program more than a wave: 931 programs in 8 waves instead of 133 in 2
        (133, 48, 2),  # ... but memory allows two parts only
    ],
)
def test_splits_fill_the_chip(programs: int, partial_mib: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "device_properties", lambda _: (90, 132))
    assert tuning.full_splits(torch.device("cuda"), programs, 1000, 8, partial_mib << 20) == expected


def test_tokens_are_sorted_by_the_tile_of_their_target() -> None:
    targets = torch.tensor([17, 3, 16, -100, 0, 40, 3])
    order, tiles = sort_by_tile(targets, 16)
    assert order.tolist() == [3, 1, 4, 6, 0, 2, 5]
    assert tiles.tolist() == [-7, 0, 0, 0, 1, 1, 2]
    assert tiles.dtype == torch.int32


@pytest.mark.parametrize(("architecture", "rows"), [(90, 64), (80, 16), (86, 16)])
def test_fp32_has_tiles_of_64_rows_on_hopper_alone(
    architecture: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "device_properties", lambda _: (architecture, 132))
    forward, _ = tuning.full_tiles(torch.device("cuda"), FP32, 256)
    assert forward.block_m == rows
