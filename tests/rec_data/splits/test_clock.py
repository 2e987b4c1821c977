"""Moments that the settings name, in the units of logs."""

import pytest

from rec_data.splits.clock import to_ticks


@pytest.mark.parametrize("moment", ["2011-09-01", "2011-09-01T02:00+02:00", "2011-09-01T00:00Z", 1_314_835_200])
@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_moment_is_the_same_in_every_unit(moment, unit, ticks):
    assert to_ticks(moment, unit) == 1_314_835_200 * ticks


def test_a_moment_between_two_ticks_is_the_later_one():
    """Interactions before the moment are the past, those from it on the future, whatever the unit of the log."""
    assert to_ticks("2011-09-01T00:00:00.000001", "s") == to_ticks(1_314_835_200_001, "s") == 1_314_835_201
