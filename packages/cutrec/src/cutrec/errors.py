"""Errors that the user can correct. Each message is one line: the name, what was found and what is allowed."""


class ConfigError(ValueError):
    """A parameter is unknown, of a wrong type, out of range, or contradicts another one."""


class StageError(ValueError):
    """A stage, a command or a call of `cutrec.Recommender` cannot continue."""


class UsageError(StageError):
    """The command line is wrong: an unknown option, or a value that an option does not take."""


class UnknownIdsWarning(UserWarning):
    """Ids that `cutrec.Recommender` was given and could not use."""

    def __init__(self, message: str, ids: list[object]) -> None:
        super().__init__(message)
        self.ids = ids
        """The distinct ids."""


class UnknownUsersWarning(UnknownIdsWarning):
    """Users without a history: they are not in the log, or the model knows none of their items."""


class UnknownItemsWarning(UnknownIdsWarning):
    """Items that the model does not know."""


class ResultsError(ValueError):
    """A results file that cannot be read; the text is one line with the file, the line and the column."""
