"""What is not tried: too large for the device, or much slower than the defaults."""

import numpy as np
import pytest
import torch

from cutrec.config import from_mapping
from cutrec.config_point import AUTO_KEYS
from cutrec.decide import Facts
from cutrec.nested import nest
from cutrec.workflow.tune_bounds import Bounds
from cutrec.workflow.tune_space import Space, space_of


@pytest.fixture(scope="module")
def space() -> Space:
    """Of 200,000 items: a table of width 512 takes 1.5 GiB with its gradient and moments (16 bytes per value)."""
    facts = Facts.of(200_000, np.tile(np.array([20, 40, 80]), 20_000))
    return space_of(from_mapping(nest(dict.fromkeys(AUTO_KEYS, "auto"))), facts)


def test_memory_bounds_the_width(space: Space):
    bounds = Bounds(space, torch.device("cuda"), 3.0)
    found = [bounds({"backbone.hidden": width}) for width in (64, 128, 512)]
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert found[2].startswith("needs ")
    assert found[2].endswith(" GiB of 3.0, as predicted")
    assert Bounds(space, torch.device("cuda"), 80.0)({"backbone.hidden": 512}) is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_epoch_of_many_times_the_work_is_not_tried(space: Space, device: str):
    bounds = Bounds(space, torch.device(device), 80.0)
    assert bounds(space.settings(space.first)) is None
    assert bounds({"batch_size": 256}) is None
    slow = bounds({"batch_size": 8})  # a step per 8 histories instead of 128
    assert (slow or "").startswith("an epoch takes ")
