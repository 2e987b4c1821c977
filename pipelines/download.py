"""Stage ``download``: the raw log as one parquet of user_id, item_id, timestamp[, rating], in the source's row order.

    python -m pipelines.download

Reads ``dataset`` and ``download`` of params.yaml; writes ``log.parquet`` and ``summary.json`` into ``data/download``.
"""

from __future__ import annotations

from cutrec import config
from cutrec.workflow import outputs as stage
from cutrec.workflow.fetch import fetch


def main() -> None:
    """Fetch the log and read it."""
    point = config.load()
    with stage.output(stage.DATA / "download") as out:
        summary = fetch(point, out / "log.parquet")
        stage.write_json(out / "summary.json", summary)


if __name__ == "__main__":
    stage.run(main)
