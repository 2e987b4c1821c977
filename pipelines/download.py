"""Stage ``download``: the raw log as one parquet of user_id, item_id, timestamp[, rating], in the source's row order.

Reads ``dataset`` and ``download`` of params.yaml; writes ``log.parquet`` and ``summary.json`` into ``data/download``.
"""

import sys

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, LOG, live_checkout
from pipelines import stage


def main(settings: config.Config) -> None:
    """Fetch the log and write it as parquet."""
    from cutrec.workflow.fetch import fetch, read_remarks

    with atomic_folder(DATA / "download") as out:
        summary = fetch(settings, out / LOG.name, root=live_checkout())
        write_json(out / "summary.json", summary)
        write_checksums(out)
    for line in read_remarks(settings, summary):
        print(f"note: {line}", file=sys.stderr)


if __name__ == "__main__":
    stage.run("download", str(__doc__), main)
