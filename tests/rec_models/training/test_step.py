import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.optim.build import build_optimizer
from rec_models.training.batch import prepare
from rec_models.training.step import StepLoss

ITEMS, WIDTH = 3000, 16


class TablesMade(TorchDispatchMode):
    """Counts new tensors of the item table's size."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {storage_of(tensor) for tensor in tensors_in((args, kwargs))}
        made = [tensor for tensor in tensors_in(out) if tensor.shape == (ITEMS, WIDTH)]
        self.count += sum(storage_of(tensor) not in given for tensor in made)
        return out


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided]


def storage_of(tensor):
    return tensor.untyped_storage().data_ptr()


DENSE = ["ce", "cce", "ce_neg", "cce_neg", "bce", "bce_neg", "gbce", "sce"]


@pytest.mark.parametrize("loss", DENSE)
def test_a_step_makes_one_gradient_table(tiny, loss):
    training = TrainingSettings()
    encoder = build_encoder(ModelSettings(hidden=WIDTH, max_seq_len=10), ITEMS)
    function = StepLoss(encoder, LossSettings.pick(loss, num_negatives=8, sharing="tile"), training)
    made = build_optimizer(encoder, training)
    batch = prepare(tiny.TinyBatches().batch(0, 0))
    for number in range(2):  # the first step also allocates the optimizer's moments
        with TablesMade() as counter:
            function(batch, number).backward()
            made.step()
            made.zero_grad()
    assert counter.count == 1
