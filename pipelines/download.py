"""Stage ``download``: the raw log as one parquet of user_id, item_id, timestamp[, rating], in the source's row order.

    python -m pipelines.download

Reads ``dataset`` and ``download`` of params.yaml; writes ``log.parquet`` and ``summary.json`` into ``data/download``.
"""

from __future__ import annotations

from pipelines import params, stage

DEMO_SEED = 0
"""The demo and the twins are data sets: ``seed`` does not change them."""


def main() -> None:
    """Fetch the log and read it."""
    point = params.load()

    from rec_data.columns import Columns
    from rec_data.log import fetch_log

    names = point.download.columns
    with stage.output(stage.DATA / "download") as out:
        summary = fetch_log(
            point.dataset,
            out / "log.parquet",
            root=stage.checkout(),
            columns=Columns(names.user, names.item, names.timestamp, names.rating),
            min_rating=point.download.min_rating,
            mirror=stage.mirror(point),
            seed=DEMO_SEED,
        )
        stage.write_json(out / "summary.json", summary)


if __name__ == "__main__":
    stage.run(main)
