"""Stage ``download``: the raw log as one parquet of user_id, item_id, timestamp[, rating], in the source's row order.

Reads ``dataset`` and ``download`` of params.yaml; writes ``log.parquet`` and ``summary.json`` into ``data/download``.
"""

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, LOG, live_checkout
from pipelines import stage


def main(settings: config.Config) -> None:
    """Fetch the log and write it as parquet."""
    from cutrec.workflow.fetch import fetch

    with atomic_folder(DATA / "download") as out:
        write_json(out / "summary.json", fetch(settings, out / LOG.name, root=live_checkout()))
        write_checksums(out)


if __name__ == "__main__":
    stage.run("download", str(__doc__), main)
