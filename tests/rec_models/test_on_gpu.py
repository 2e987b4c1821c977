"""What only a GPU can show; run with ``pytest -m gpu``."""

import pytest
import torch
from torch import Tensor

from rec_models.backbones import build_encoder
from rec_models.backbones.attention import _attend_packed, _attend_padded
from rec_models.backbones.layout import layout_of
from rec_models.backbones.lookup import lookup, lookup_into_grad
from rec_models.feed import prepare
from rec_models.losses import LossContext, build_loss
from rec_models.settings import LossSettings, ModelSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("head", [32, 128, 160])
def test_packed_attention_is_padded_attention(causal, dtype, head):
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 33, 17], device="cuda")
    layout = layout_of(lengths, 33)
    qkv = torch.randn(56, 3, 2, head, device="cuda").to(dtype).requires_grad_()
    exact = qkv.detach().float().requires_grad_()
    packed, padded = (_attend_packed(qkv, layout, causal=causal), _attend_padded(exact, layout, causal=causal))
    grad = torch.randn_like(padded)
    packed.backward(grad.to(dtype))
    padded.backward(grad)
    step = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    assert (packed.float() - padded).abs().max() < 8 * step
    assert (qkv.grad.float() - exact.grad).norm() < 4 * step * exact.grad.norm()


def test_mixed_precision_stays_close_to_float64(tiny, model_name):
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(model=model_name, hidden=64, max_seq_len=10, dropout=0.0), tiny.ITEMS)
    batch = tiny.TinyBatches(model=model_name).batch(0, 0)
    exact = encoder.double()(batch.inputs, batch.lengths, batch.masked)
    on_gpu = encoder.float().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        masked = None if batch.masked is None else batch.masked.cuda()
        mixed = on_gpu(batch.inputs.cuda(), batch.lengths.cuda(), masked)
    assert (mixed.double().cpu() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_training_on_a_gpu_learns_and_reports(tiny, tmp_path, precision):
    result = tiny.run(
        tmp_path / "out",
        tmp_path / "kept",
        accelerator="cuda",
        precision=precision,
        max_epochs=15,
        patience=15,
        learning_rate=1e-2,
        dropout=0.0,
    )
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.peak_memory_kind == "cuda max_memory_allocated"
    assert result.precision == precision
    assert result.device == torch.cuda.get_device_name()


def test_a_stopped_run_on_a_gpu_resumes_where_it_was(tiny, tmp_path):
    options = {"accelerator": "cuda", "precision": "32-true", "loss": "ce", "checkpoint_steps": 2}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    calls = []

    def stop_at_eighth(encoder):
        calls.append(1)
        raise KeyError("stop")

    original, tiny.validate = tiny.validate, stop_at_eighth
    try:
        with pytest.raises(KeyError):
            tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    finally:
        tiny.validate = original
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    for ours, expected in zip(resumed.history, whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def step_of(tiny, encoder, loss, optimizer):
    """A step as training does it, everything on the device already."""
    host = prepare(tiny.TinyBatches().batch(0, 0))
    moved = host.map(Tensor.cuda)
    items, targets, layout = moved.items, moved.targets, moved.layout

    def step(number):
        with torch.autocast("cuda", torch.bfloat16):
            hidden = encoder.encode_packed(items, layout).bfloat16()
            value = loss(hidden, encoder.item_table, targets, LossContext(seed=1, step=number))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("loss", ["ce", "ce_neg", "cce", "cce_neg", "bce_neg", "gbce", "sce"])
def test_a_step_never_waits_for_the_device(tiny, loss):
    encoder = build_encoder(ModelSettings(hidden=64, max_seq_len=10), tiny.ITEMS).cuda()
    encoder.lookup = lookup_into_grad
    optimizer = torch.optim.Adam(encoder.parameters(), fused=True)
    step = step_of(tiny, encoder, build_loss(LossSettings.pick(loss, num_negatives=16, sharing="tile")), optimizer)
    step(0)
    step(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_tied_table_has_one_gradient(tiny):
    items, width = 400_000, 64
    table_bytes = items * width * 4

    def peak(look):
        torch.cuda.empty_cache()
        encoder = build_encoder(ModelSettings(hidden=width, max_seq_len=10), items).cuda()
        encoder.lookup = look
        loss = build_loss(LossSettings.pick("cce_neg", num_negatives=16, sharing="tile"))
        step = step_of(tiny, encoder, loss, torch.optim.SGD(encoder.parameters(), lr=0.1, fused=True))
        step(0)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(1)
        return torch.cuda.max_memory_allocated() - before

    assert peak(lookup_into_grad) < peak(lookup) - 0.8 * table_bytes
