"""The gain of a search and how sure it is, by hand."""

import math

import numpy as np
import pytest

from cutrec.workflow.tune_result import Gain, gains


def test_the_gain_of_a_user_is_the_ndcg_of_their_target():
    assert gains(np.array([1, 3, 10, 11])).tolist() == pytest.approx([1, 1 / 2, 1 / math.log2(11), 0])


@pytest.mark.parametrize(
    ("gain", "is_noise"),
    [
        (Gain(0.021, 0.01, 100), False),
        (Gain(0.019, 0.01, 100), True),
        (Gain(0.0, 0.0, 100), True),
        (Gain(0.5, math.nan, 1), True),
    ],
)
def test_a_gain_below_two_standard_errors_is_noise(gain: Gain, is_noise: bool):
    assert gain.is_noise == is_noise
