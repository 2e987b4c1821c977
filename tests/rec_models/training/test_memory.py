import dataclasses
from types import SimpleNamespace

import pytest
import torch

from rec_models.config import LOSSES, OPTIMIZERS, LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.losses import LOSSES as SPECS
from rec_models.optim.build import build_optimizer, table_bytes
from rec_models.training.memory import Run, is_out_of_memory, out_of_memory_advice, peak_gib, peak_kind

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def run_of(loss="cce", num_items=10, optimizer="adam", **options):
    settings = LossSettings.pick(loss, num_negatives=8, **options)
    return Run(ModelSettings(hidden=64), settings, TrainingSettings(optimizer=optimizer), num_items)


def advice_of(run, device=CPU, shape=None, error=None):
    return out_of_memory_advice(error or torch.OutOfMemoryError("CUDA out of memory"), device, run, shape)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 79 GiB whose peak was 55 GiB."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 55 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=79 * 2**30))
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    return CUDA


def test_the_peak_of_a_process_covers_what_it_held():
    before = peak_gib(CPU)
    held = torch.ones(1 << 27)  # half a GiB
    assert peak_gib(CPU) >= max(before, held.nbytes / 2**30)
    assert peak_kind(CPU) == "peak resident memory of the process"


@pytest.mark.parametrize("loss", LOSSES)
def test_advice_names_what_this_loss_can_lower(loss):
    advice = advice_of(run_of(loss), shape=(4, 16))
    assert advice.startswith("out of memory with a batch of 4 x 16: the peak so far was ")
    assert "lower batch_size or max_seq_len" in advice
    assert ("num_negatives" in advice) == (loss in ("ce_neg", "cce_neg", "bce_neg", "gbce"))
    assert ("loss=cce" in advice) == (loss in ("ce", "ce_neg"))
    assert ("sce bucket sizes" in advice) == (loss == "sce")
    assert "\n" not in advice
    assert "expandable_segments" not in advice  # of use on a GPU only
    assert "hidden" not in advice  # ten items


def test_a_loss_says_itself_what_lowers_its_memory(monkeypatch):
    entry = SPECS["bce"]
    monkeypatch.setitem(SPECS, "bce", dataclasses.replace(entry, less_memory="the moon"))
    assert advice_of(run_of("bce", paper_faithful=True)).endswith("lower batch_size or max_seq_len, or the moon")
    assert "the moon" not in advice_of(run_of("bce_neg"))


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_on_a_gpu_advice_names_the_allocators_setting_unless_it_is_set(monkeypatch, gpu, variable):
    assert "or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in advice_of(run_of("ce"), gpu)
    monkeypatch.setenv(variable, "max_split_size_mb:64,expandable_segments:True")
    assert "expandable_segments" not in advice_of(run_of("ce"), gpu)


def test_a_message_says_how_much_was_needed(gpu):
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    expected = "out of memory with a batch of 4 x 16: needed 20.00 GiB more, the peak so far was 55.0 GiB of 79.0 GiB; "
    assert advice_of(run_of(), gpu, (4, 16), error).startswith(expected)
    hidden = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    hidden.__context__ = error
    assert advice_of(run_of(), gpu, (4, 16), hidden).startswith(expected)


def test_a_host_says_how_much_was_needed():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert "needed 4194304.00 GiB more" in advice_of(run_of(), error=error.value)


@pytest.mark.parametrize(
    ("optimizer", "gib", "leaner"),
    [
        ("adam", "40.0", "or take optimizer=adam_bf16 (30.0 GiB) or adam_rowwise (25.0 GiB), "),
        ("adam_bf16", "30.0", "or take optimizer=adam_rowwise (25.0 GiB), "),
        ("adam_rowwise", "25.0", ""),
    ],
)
def test_a_table_that_fills_memory_is_named(monkeypatch, gpu, optimizer, gib, leaner):
    run = run_of(num_items=10 * 2**22, optimizer=optimizer)  # 2.5 GiB a byte an element
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 49 * 2**30)
    said = f"lower hidden, because the item table with its gradient and moments takes {gib} GiB, {leaner}or lower batch"
    assert said in advice_of(run, gpu)


def test_a_table_that_does_not_fill_memory_is_not_named(gpu):
    assert "hidden" not in advice_of(run_of(num_items=6 * 2**22), gpu)  # 24 of 55 GiB
    assert "hidden" in advice_of(run_of(num_items=7 * 2**22), gpu)  # 28
    logits = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert "hidden" not in advice_of(run_of(num_items=7 * 2**22), gpu, error=logits)  # 28 of 75


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bytes_of_a_table_are_those_of_a_step(optimizer):
    run = run_of("cce_neg", 50, optimizer)
    encoder = build_encoder(run.model, 50)
    made = build_optimizer(encoder, run.training)
    encoder.item_table.grad = grad = torch.zeros(50, 64)
    made.step()
    state = [value for value in made.state[encoder.item_table].values() if torch.is_tensor(value) and value.ndim]
    wide = [value for value in state if value.numel() == grad.numel()]
    assert table_bytes(optimizer, 50, 64) == 2 * grad.nbytes + sum(value.nbytes for value in wide)


def test_what_counts_as_running_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(None)
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)  # what torch says on a host
    assert is_out_of_memory(error.value)


def test_an_error_that_hides_it_counts_too():
    for link in ("__context__", "__cause__"):
        ending = RuntimeError("CUDA error: operation failed due to a previous error during capture")
        setattr(ending, link, torch.OutOfMemoryError("CUDA out of memory"))
        outer = RuntimeError("outer")
        outer.__context__ = ending
        ending.__context__ = ending.__context__ or outer  # a cycle must not be followed forever
        assert is_out_of_memory(outer)
