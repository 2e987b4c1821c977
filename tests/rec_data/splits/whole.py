"""A sorted log that is divided as one part, for tests of the strategies."""

from types import SimpleNamespace

from rec_data.splits import decide


def temporal(log, **choices):
    """The subsets of a temporal split of a log, and what was decided on the whole."""
    return _in_one(decide.temporal([log], **choices))


def leave_one_out(log, **choices):
    """The subsets of a leave-one-out split of a log."""
    return _in_one(decide.leave_one_out([log], **choices))


def _in_one(division):
    ((_, partition),) = division.partitions
    boundary = getattr(division.strategy, "boundary", None)
    facts = {"catalogue": division.catalogue.items, "boundary_time": boundary, "dropped": division.dropped}
    return SimpleNamespace(**vars(partition) | facts)
