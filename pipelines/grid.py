"""Deprecated: use ``python -m pipelines.paper.grid``."""

import sys

from cutrec.console import run_and_exit
from pipelines.paper.grid import main

if __name__ == "__main__":
    print("note: python -m pipelines.grid will be removed, use: python -m pipelines.paper.grid", file=sys.stderr)
    run_and_exit(main)
