"""The error of a damaged file."""


class DamagedError(ValueError):
    """A file is not as it was written."""
