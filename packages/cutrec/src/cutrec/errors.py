"""Errors that the user can correct. Each message is one line: the name, what was found and what is allowed."""


class ConfigError(ValueError):
    """A parameter is unknown, of a wrong type, out of range, or contradicts another one."""


class StageError(ValueError):
    """A stage or a command cannot continue."""


class UsageError(StageError):
    """The command line is wrong: an unknown option, or a value that an option does not take."""


class ResultsError(ValueError):
    """A results file that cannot be read; the text is one line with the file, the line and the column."""
