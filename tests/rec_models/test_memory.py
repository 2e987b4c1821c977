from types import SimpleNamespace

import pytest
import torch

from rec_models.memory import is_out_of_memory, out_of_memory_advice, peak_gib, peak_kind
from rec_models.settings import LOSSES, LossSettings

CPU = torch.device("cpu")


def test_the_peak_of_a_process_covers_what_it_held():
    before = peak_gib(CPU)
    held = torch.ones(1 << 27)  # half a GiB
    assert peak_gib(CPU) >= max(before, held.nbytes / 2**30)
    assert peak_kind(CPU) == "peak resident memory of the process"


@pytest.mark.parametrize("loss", LOSSES)
def test_advice_names_what_this_loss_can_lower(loss):
    advice = out_of_memory_advice(CPU, LossSettings.pick(loss, num_negatives=8), (4, 16))
    assert advice.startswith("out of memory with a batch of 4 x 16: the peak so far was ")
    assert "lower batch_size or max_seq_len" in advice
    assert ("num_negatives" in advice) == (loss in ("ce_neg", "cce_neg", "bce_neg", "gbce"))
    assert ("loss=cce" in advice) == (loss in ("ce", "ce_neg"))
    assert ("sce bucket sizes" in advice) == (loss == "sce")
    assert "\n" not in advice
    assert "expandable_segments" not in advice  # of use on a GPU only


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_on_a_gpu_advice_names_the_allocators_setting_unless_it_is_set(monkeypatch, variable):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 55 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=79 * 2**30))
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    where = (torch.device("cuda"), LossSettings.pick("ce"), None)
    assert "or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in out_of_memory_advice(*where)
    monkeypatch.setenv(variable, "max_split_size_mb:64,expandable_segments:True")
    assert "expandable_segments" not in out_of_memory_advice(*where)


def test_what_counts_as_running_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)  # what torch says on a host
    assert is_out_of_memory(error.value)
