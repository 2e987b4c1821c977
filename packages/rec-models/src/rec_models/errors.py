"""The errors of this package."""

from __future__ import annotations

from collections.abc import Mapping


class TrainingError(RuntimeError):
    """Training cannot go on; the text is one line that says why and what to do.

    `on_every_rank`: each process of the run raises the same, so it is enough that the first one tells it.
    """

    def __init__(self, text: str, *, on_every_rank: bool = False) -> None:
        super().__init__(text)
        self.on_every_rank = on_every_rank


class CheckpointError(ValueError):
    """A file is damaged or not a checkpoint of this package."""


class SettingsError(ValueError):
    """A setting contradicts another one: its name, the value found, what is allowed in words, and the other setting."""

    def __init__(self, name: str, found: object, allowed: str, **beside: object) -> None:
        self.name, self.found, self.allowed, self.beside = name, found, allowed, beside
        super().__init__(self.with_keys({}))

    def with_keys(self, keys: Mapping[str, str]) -> str:
        """The message in one line, with another name for each setting that `keys` has one for."""
        pairs = " and ".join(f"{keys.get(name, name)}={value}" for name, value in self.beside.items())
        place = f" with {pairs}" if pairs else ""
        return f"{keys.get(self.name, self.name)}: found {self.found!r}{place}, allowed: {self.allowed}"
