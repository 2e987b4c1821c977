"""What a training run hands to ``dvc metrics``."""

import pytest

from pipelines import train
from pipelines.params import Params
from rec_models.training import FitResult

RESULT = FitResult(
    train_loss=2.5,
    best_epoch=1,
    epochs=2,
    metrics={"ndcg@10": 0.25, "recall@10": 0.5},
    epoch_seconds=1.0,
    whole_epoch_seconds=1.5,
    peak_memory_gib=0.25,
    loop_peak_memory_gib=0.25,
    peak_memory_kind="peak of a test",
    tokens_per_second=10.0,
    device="cpu",
    precision="32-true",
    history=[],
    is_first_rank=True,
)


@pytest.mark.parametrize(
    ("dataset", "shown"), [("demo", ["validation_ndcg@10", "validation_recall@10"]), ("twin:beauty@0.01", [])]
)
def test_a_twin_has_no_accuracy_in_its_metrics(dataset: str, shown: list[str]):
    found = train.summary(Params(dataset=dataset), RESULT)
    assert [name for name in found if name.startswith("validation")] == shown
    assert (found["train_loss"], found["best_epoch"], found["whole_epoch_seconds"]) == (2.5, 1, 1.5)
