"""How a message says which settings help: in the words of the surface that the program was called from.

A message names settings as data, ``stated({"download.format.quote": "single"})``, and values such as None by
`stated_value`. They are shown as options of the command line, unless the caller has chosen another form with
`stated_as`: `cutrec.Recommender` has arguments in place of options.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

Settings = Mapping[str, object]
"""Dotted keys of params.yaml, or options such as ``--user-column``, and their values."""


_PLAIN = re.compile(r"[A-Za-z0-9_/%+.*@:-]+( +[A-Za-z0-9_/%+.*@:-]+)*")
"""Texts that Hydra, which reads ``-S`` for DVC, takes as they are, unless they are one of `_WORDS`."""
_WORDS = ("null", "true", "false", "nan", "inf")


def as_options(settings: Settings) -> str:
    """Settings as ``-S KEY=VALUE`` and options as ``--option VALUE``, quoted for Hydra and a shell where necessary."""
    words = []
    for key, value in settings.items():
        if key.startswith("--"):
            words.append(f"{key} {_quoted_for_shell(str(value))}")
        else:
            text = f"[{','.join(map(_override, value))}]" if isinstance(value, list) else _override(value)
            words.append(f"-S {_quoted_for_shell(f'{key}={text}')}")
    return " ".join(words)


def quoted_for_hydra(text: str) -> str:
    """A text in double quotes, in the grammar of Hydra's overrides."""
    # A backslash only needs another one where a quote follows: there it would escape the quote.
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def _override(value: object) -> str:
    """A value that is no list, as ``-S KEY=`` takes it; digits are left to be read as a number."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else quoted_for_hydra(text)


def _quoted_for_shell(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else shlex.quote(word)  # shlex quotes all but ASCII


class Form(NamedTuple):
    """How settings and single values are shown."""

    settings: Callable[[Settings], str]
    value: Callable[[object], str]


OPTIONS = Form(as_options, _override)
"""The form of the command line."""
_form: ContextVar[Form] = ContextVar("form", default=OPTIONS)


def stated(settings: Settings) -> str:
    """The settings as the caller states them, for a message."""
    return _form.get().settings(settings)


def stated_value(value: object) -> str:
    """A value as the caller states it, such as None as ``null``, for a message."""
    return _form.get().value(value)


@contextmanager
def stated_as(form: Form) -> Iterator[None]:
    """Show the settings and values of messages in another form during the block."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)
