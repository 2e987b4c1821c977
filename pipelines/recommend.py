"""Deprecated: use ``cutrec recommend``."""

from __future__ import annotations

from cutrec.workflow import outputs
from cutrec.workflow.recommend import main

if __name__ == "__main__":
    outputs.run(main)
