"""When the times of a log are dates without a time of day."""

import numpy as np
import pytest

from rec_data.splits.clock import dates_only

DAY = 86_400
DAYS = 1_700_006_400 + DAY * np.array([3, 0, 0, 1])
"""Midnights in UTC."""


@pytest.mark.parametrize("ticks", [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize("hour", [0, 5, 21])
def test_dates_at_one_time_of_day_in_any_zone_have_none(ticks, hour):
    times = (DAYS + 3600 * hour) * ticks
    assert dates_only(times)
    assert not dates_only(times + np.array([0, 0, 1, 0]))


def test_one_moment_is_a_date_only_at_midnight():
    assert dates_only(DAYS[:1])
    assert not dates_only(DAYS[:1].repeat(3) + 5 * 3600)
    assert not dates_only(DAY * np.arange(3))  # positions
