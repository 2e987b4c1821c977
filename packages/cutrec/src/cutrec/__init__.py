"""The product: what people import and run.

``from cutrec import Recommender`` trains on a log and recommends with its ids. Importing this package loads nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutrec.errors import UnknownItemsWarning, UnknownUsersWarning
    from cutrec.recommender import Recommender

__all__ = ["Recommender", "UnknownItemsWarning", "UnknownUsersWarning"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{'recommender' if name[0] == 'R' else 'errors'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
