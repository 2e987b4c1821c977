"""Stage ``split``: the log becomes train, validation and test sequences over dense ids.

    python -m pipelines.split

Reads ``split`` and ``seed`` of params.yaml and ``data/download/log.parquet``; writes ``data/split/``.
"""

from __future__ import annotations

from pipelines import params, stage


def main() -> None:
    """Filter and split the log."""
    point = params.load()

    from rec_data.split import split_log

    with stage.output(stage.DATA / "split") as out:
        split_log(
            stage.DATA / "download" / "log.parquet",
            out,
            strategy=point.split.strategy,
            test_fraction=point.split.test_fraction,
            validation_users=point.split.validation_users,
            min_item_count=point.split.min_item_count,
            min_user_count=point.split.min_user_count,
            seed=point.seed,
            filter_seen=point.evaluate.filter_seen,
        )


if __name__ == "__main__":
    stage.run(main)
