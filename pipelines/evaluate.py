"""Stage ``evaluate``: the whole catalogue ranked for every test user, by the model and by popularity.

Reads ``evaluate`` of params.yaml, its `split_folder`, ``data/train/model.safetensors``, and the groups of items
in the file that ``report.item_names`` names; writes metrics, lists and details into ``data/evaluate/``.
"""

from pathlib import Path

from cutrec.config_point import Config
from cutrec.paths import DATA, MODEL, live_checkout
from pipelines import stage


def main(settings: Config) -> None:
    """Rank, measure and write the results."""
    from cutrec.workflow.evaluate import evaluate

    evaluate(settings, Path(settings.split_folder), MODEL, DATA / "evaluate", root=live_checkout())


if __name__ == "__main__":
    stage.run("evaluate", str(__doc__), main)
