"""Fixtures shared with the other tests of whole stages."""

from tests.small_log import workplace

__all__ = ["workplace"]
