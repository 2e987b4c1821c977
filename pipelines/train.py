"""Stage ``train``: a trained model, its curves, its time and its memory.

Reads params.yaml and its `split_folder`; writes ``data/train/``. If training is killed, the next run resumes from the
last checkpoint. Checkpoints are kept in ``.checkpoints/``, because DVC deletes the outputs of a stage before it runs.
Those of a complete training stay until another one starts, in case DVC could not record the outputs.
"""

from functools import partial
from pathlib import Path

from cutrec.config_point import Config
from cutrec.paths import DATA, checkpoint_folder
from pipelines import stage


def main(settings: Config) -> None:
    """Train, or resume an interrupted training."""
    from cutrec.workflow.train import train

    confirm = partial(stage.refuse_edit, "train", settings)
    train(settings, Path(settings.split_folder), DATA / "train", checkpoints=checkpoint_folder(), confirm=confirm)


if __name__ == "__main__":
    stage.run("train", str(__doc__), main)
