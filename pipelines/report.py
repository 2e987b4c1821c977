"""Stage ``report``: one page that tells a run to somebody who was not there."""

from __future__ import annotations

from cutrec.reporting.report import main
from cutrec.workflow import outputs

if __name__ == "__main__":
    outputs.run(main)
