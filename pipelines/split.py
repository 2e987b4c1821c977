"""Stage ``split``: train, validation and test sequences over dense ids.

Reads ``split`` and ``seed`` of params.yaml and ``data/download/log.parquet``; writes ``data/split/``.
"""

from cutrec.config_point import Config
from cutrec.paths import LOG, SPLIT
from pipelines import stage


def main(settings: Config) -> None:
    """Filter and split the log."""
    from cutrec.workflow.split import split

    split(settings, LOG, SPLIT)


if __name__ == "__main__":
    stage.run("split", str(__doc__), main)
