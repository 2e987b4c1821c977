"""What stops a command before it does anything, as one line without a traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """Something in the parameters is unknown, of a wrong type, out of range or contradicts something else."""
