"""Stage ``download``: the raw log as one parquet of user_id, item_id, timestamp[, rating], in the source's row order.

Reads ``dataset`` and ``download`` of params.yaml; writes ``log.parquet`` and ``summary.json`` into ``data/download``.
"""

from cutrec.config_point import Config
from cutrec.paths import LOG, live_checkout
from pipelines import stage


def main(settings: Config) -> None:
    """Fetch the log and write it as parquet."""
    from cutrec.workflow.fetch import download

    download(settings, LOG.parent, root=live_checkout())


if __name__ == "__main__":
    stage.run("download", str(__doc__), main)
