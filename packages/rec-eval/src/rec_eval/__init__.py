"""Streaming top-k over large catalogues and the ranking metrics of recommender systems.

The public names are those of `rec_eval.public`. `rec_eval.config` can be imported without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rec_eval.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    public = importlib.import_module("rec_eval.public")
    if hasattr(public, name):
        return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
