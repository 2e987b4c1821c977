"""Times of a log that are dates without a time of day, and moments that the settings name."""

import numpy as np
import pytest

from rec_data.splits.clock import as_date, dates_only, to_ticks

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


@pytest.mark.parametrize("moment", ["2011-09-01", "2011-09-01T02:00+02:00", "2011-09-01T00:00Z", 1_314_835_200])
@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_moment_is_the_same_in_every_unit(moment, unit, ticks):
    assert to_ticks(moment, unit) == 1_314_835_200 * ticks


def test_a_moment_between_two_ticks_is_the_later_one():
    """Interactions before the moment are the past, those from it on the future, whatever the unit of the log."""
    assert to_ticks("2011-09-01T00:00:00.000001", "s") == to_ticks(1_314_835_200_001, "s") == 1_314_835_201


def test_a_moment_is_a_date_if_it_can_be_one():
    assert as_date(1_700_000_000) == as_date(1_700_000_000_000) == "2023-11-14 22:13:20 UTC"
    assert as_date(17) == "17"
