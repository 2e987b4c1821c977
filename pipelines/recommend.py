"""Deprecated: use ``cutrec recommend``."""

from __future__ import annotations

from pipelines import deprecated

if __name__ == "__main__":
    deprecated.run("recommend")
