"""Stage ``evaluate``: the whole catalogue ranked for every test user, by the model and by popularity.

Reads ``evaluate`` of params.yaml, ``data/split/`` and ``data/train/model.ckpt``; writes metrics, lists and details into
``data/evaluate/``.
"""

from cutrec import config
from cutrec.paths import DATA, MODEL, SPLIT
from pipelines import stage


def main(settings: config.Config) -> None:
    """Rank, measure and write the results."""
    from cutrec.workflow.evaluate import evaluate

    evaluate(settings, SPLIT, MODEL, DATA / "evaluate")


if __name__ == "__main__":
    stage.run("evaluate", str(__doc__), main)
