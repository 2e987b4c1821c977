"""How a message says which settings help: in the words of the surface that the program was called from.

A message names settings as data, ``stated({"download.format.quote": "single"})``. They are shown as options of the
command line, unless the caller has chosen another form with `stated_as`: `cutrec.Recommender` has arguments in place of
options.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Settings = Mapping[str, object]
"""Dotted keys of params.yaml, or options such as ``--user-column``, and their values."""


def as_options(settings: Settings) -> str:
    """Settings as ``-S KEY=VALUE``, quoted for a shell where that is necessary, and options as ``--option VALUE``."""
    words = []
    for key, value in settings.items():
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else text
        pair = f"{key}={text}"
        quoted = pair if re.fullmatch(r"[\w@%+=:,./-]+", pair) else shlex.quote(pair)  # shlex quotes all but ASCII
        words.append(f"{key} {text}" if key.startswith("--") else f"-S {quoted}")
    return " ".join(words)


_form: ContextVar[Callable[[Settings], str]] = ContextVar("form", default=as_options)


def stated(settings: Settings) -> str:
    """The settings as the caller states them, for a message."""
    return _form.get()(settings)


@contextmanager
def stated_as(form: Callable[[Settings], str]) -> Iterator[None]:
    """Show the settings of messages in another form during the block."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)
