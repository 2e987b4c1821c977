"""Deprecated: use ``cutrec compare``."""

from __future__ import annotations

from cutrec.reporting.compare import main
from cutrec.workflow import outputs

if __name__ == "__main__":
    outputs.run(main)
