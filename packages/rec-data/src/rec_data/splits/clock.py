"""Whether the times of a log are dates, and whether these have a time of day."""

from rec_data import arrays
from rec_data.arrays import Int64s
from rec_data.raw.timestamps import UNITS, of_a_clock, unit_of


def has_clock(times: Int64s) -> bool:
    """Whether the times of a log are dates rather than positions (``rec_data.raw.timestamps.of_a_clock``)."""
    unit = unit_of(int(times.max()))
    dates = sum(int(of_a_clock(times[block], unit).sum()) for block in arrays.blocks(len(times)))
    return 2 * dates > len(times)


def dates_only(times: Int64s) -> bool:
    """Whether the times of a log are dates without a time of day: all at the same one, which is midnight in some zone.

    One moment alone must be midnight in UTC.
    """
    day = 86_400 * UNITS[unit_of(int(times.max()))]
    midnight = int(times[0]) % day
    same = all(not ((times[block] - midnight) % day).any() for block in arrays.blocks(len(times)))
    return same and (midnight == 0 or bool((times != times[0]).any())) and has_clock(times)
