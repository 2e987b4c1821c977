"""How settings refuse a value: one line that names the setting, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Callable


class SettingsError(ValueError):
    """A setting is out of range, or contradicts another one."""


def require(name: str, found: object, holds: bool, allowed: str, *, beside: str = "") -> None:
    """Refuse a value, unless it holds.

    Args:
        name: of the setting.
        found: its value.
        holds: whether the value is one of those allowed.
        allowed: what is allowed, in words.
        beside: another setting that it contradicts, as ``name=value``.

    Raises:
        SettingsError: it does not hold.
    """
    if not holds:
        place = f" with {beside}" if beside else ""
        raise SettingsError(f"{name}: found {found!r}{place}, allowed: {allowed}")


def whole_from(name: str, found: object, least: int) -> None:
    """Refuse what is not a whole number of at least `least` with a `SettingsError` that names the setting."""
    holds = isinstance(found, int) and not isinstance(found, bool) and found >= least
    require(name, found, holds, f"a whole number from {least}")


def one_of(name: str, found: object, allowed: tuple[str, ...]) -> None:
    """Refuse what is not among the allowed words with a `SettingsError` that names the setting."""
    require(name, found, found in allowed, " | ".join(allowed))


def number(name: str, found: object, holds: Callable[[float], bool], allowed: str) -> None:
    """Refuse what is no number, or one of which `holds` is not true, with a `SettingsError` that names the setting."""
    require(name, found, isinstance(found, int | float) and not isinstance(found, bool) and holds(found), allowed)


def flag(name: str, found: object) -> None:
    """Refuse what is neither True nor False with a `SettingsError` that names the setting."""
    require(name, found, isinstance(found, bool), "True or False")
