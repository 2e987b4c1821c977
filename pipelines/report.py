"""Stage ``report``: one page that explains the run to a reader who was not there.

Reads params.yaml and the outputs of the other stages; writes ``report.html``, its pictures and ``results.csv`` into
``data/report/``, and prints the result of the run.
"""

import os
from pathlib import Path

from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.paths import DATA, SPLIT, live_checkout
from pipelines import stage


def main(settings: Config) -> None:
    """Draw the pictures, write the page and print the result."""
    if Path(settings.split_folder) != SPLIT:
        raise StageError(
            f"split_folder: found {settings.split_folder}, allowed for the report: {SPLIT}, as the page describes the "
            "log that the stage download read; `dvc repro evaluate` ends before it"
        )
    from cutrec.reporting.summary import summary
    from cutrec.workflow.report import report

    run = report(settings, DATA, DATA / "report", root=live_checkout())
    queued = live_checkout() != Path.cwd().resolve()  # in a copy of the repository
    name = os.environ.get("DVC_EXP_NAME", "NAME") if queued else None
    print(*summary(run, DATA / "report" / "report.html", name), sep="\n")


if __name__ == "__main__":
    stage.run("report", str(__doc__), main)
