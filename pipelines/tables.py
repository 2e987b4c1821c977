"""Deprecated: use ``python -m pipelines.paper.tables``."""

import sys

from cutrec.console import run_and_exit
from pipelines.paper.tables import main

if __name__ == "__main__":
    print("note: python -m pipelines.tables will be removed, use: python -m pipelines.paper.tables", file=sys.stderr)
    run_and_exit(main)
