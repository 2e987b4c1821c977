"""Stage ``report``: one page that explains the run to a reader who was not there.

Reads params.yaml and the outputs of the other stages; writes ``report.html``, its pictures and ``results.csv`` into
``data/report/``.
"""

from cutrec import config
from cutrec.paths import DATA, live_checkout
from pipelines import stage


def main(settings: config.Config) -> None:
    """Draw the pictures and write the page."""
    from cutrec.workflow.report import report

    report(settings, DATA, DATA / "report", root=live_checkout())


if __name__ == "__main__":
    stage.run("report", str(__doc__), main)
