"""Deprecated: use ``cutrec describe``."""

from __future__ import annotations

from cutrec.reporting.describe import main
from cutrec.workflow import outputs

if __name__ == "__main__":
    outputs.run(main)
