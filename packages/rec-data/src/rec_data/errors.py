"""The one error of this package that a user can cause."""


class DataError(ValueError):
    """Something about the data or its description is wrong.

    The message is one line: what was found, where, and what is allowed.
    """
