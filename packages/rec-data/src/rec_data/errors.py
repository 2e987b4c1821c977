"""The error that users of this package can cause."""


class DataError(ValueError):
    """The data, or its description, is wrong.

    The message is one line: what was found, where, and what is allowed.
    """
