"""What only a GPU can show; run with ``pytest -m gpu``."""

from functools import partialmethod

import pytest
import torch
from torch import Tensor

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.embedding import lookup, lookup_into_grad
from rec_models.encoders.packing import layout_of
from rec_models.encoders.transformer import _attend_packed, _attend_padded
from rec_models.inference import encode, load
from rec_models.losses import LossContext, build_loss
from rec_models.optim.build import KEPT, build_optimizer
from rec_models.training.batch import prepare
from rec_models.training.cuda_graphs import GraphedSteps, prepare_filled
from rec_models.training.loop import fit
from rec_models.training.prefetch import Prefetcher
from rec_models.training.ranks import Ranks
from rec_models.training.step import StepLoss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("head", [32, 128, 160])
def test_packed_attention_is_padded_attention(causal, dtype, head):
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 33, 17, 0, 0], device="cuda")  # empty histories stand at the end of a filled batch
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
    exact = encoder.double()(batch.items, layout_of(batch.lengths), batch.masked)
    on_gpu = encoder.float().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        masked = None if batch.masked is None else batch.masked.cuda()
        mixed = on_gpu(batch.items.cuda(), layout_of(batch.lengths.cuda()), masked)
    assert (mixed.double().cpu() - exact).norm() < 0.02 * exact.norm()


def test_a_loaded_model_ranks_in_the_precision_of_training(tiny, tmp_path, model_name):
    tiny.run(tmp_path / "out", tmp_path / "kept", model=model_name, accelerator="cuda", max_epochs=1)
    histories = [[1, 8, 15], [4], list(range(12))]
    encoder = load(tmp_path / "out" / "model.safetensors", "cuda")
    assert encoder.autocast_dtype == torch.bfloat16
    found, exact = encode(encoder, histories), encode(load(tmp_path / "out" / "model.safetensors"), histories)
    assert found.dtype == torch.float32
    assert (found.cpu() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("bf16-mixed", "adam"), ("16-mixed", "adam"), ("32-true", "adam"), ("16-mixed", "adam_rowwise")],
)
def test_training_on_a_gpu_learns_and_reports(tiny, tmp_path, precision, optimizer):
    result = tiny.run(
        tmp_path / "out",
        tmp_path / "kept",
        accelerator="cuda",
        precision=precision,
        optimizer=optimizer,
        max_epochs=15,
        patience=15,
        learning_rate=1e-2,
        dropout=0.0,
    )
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.peak_memory_kind == "cuda max_memory_allocated"
    assert result.precision == precision
    assert result.device == torch.cuda.get_device_name()


PAPER = {"norm": "query", "activation": "relu", "scale_embeddings": True, "initialization": "xavier"}


@pytest.mark.parametrize("options", [{}, PAPER], ids=["plain", "paper"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_attention_dropout_trains_on_padded_histories(tiny, tmp_path, model_name, cuda_graphs, options):
    epochs = 6 if model_name == "sasrec" else 30  # few items of a history are masked: it learns slowly
    result = fit(
        model=ModelSettings(model=model_name, hidden=16, max_seq_len=10, attention_dropout=0.3, **options),
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(
            max_epochs=epochs, patience=epochs, learning_rate=1e-2, accelerator="cuda", cuda_graphs=cuda_graphs
        ),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(model=model_name),
        validate=tiny.validate,
        out=tmp_path / "out",
        checkpoint_dir=tmp_path / "kept",
    )
    first, last = (result.history[epoch]["train_loss"] for epoch in (0, -1))
    assert last < (0.8 if model_name == "sasrec" else 0.95) * first


def test_a_run_on_a_gpu_that_stopped_in_mid_epoch_resumes_where_it_was(tiny, tmp_path, monkeypatch):
    options = {"accelerator": "cuda", "precision": "32-true", "loss": "ce", "checkpoint_steps": 2}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    forward = StepLoss.forward

    def stop_before_the_tenth(self, batch, step, row_offset=0):
        if step == 9:
            raise KeyError("stop")
        return forward(self, batch, step, row_offset)

    with monkeypatch.context() as patch:
        patch.setattr(StepLoss, "forward", stop_before_the_tenth)
        with pytest.raises(KeyError):
            tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]
    assert (kept["epoch"], kept["index"], kept["step"]) == (1, 2, 8)  # of six batches each; one step was lost
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    for ours, expected in zip(resumed.history, whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def test_a_stopped_run_in_half_precision_resumes_with_its_scaler(tiny, tmp_path, monkeypatch):
    # A scale that grows every third step: a run that began again with the first one would end with another.
    scaler = partialmethod(torch.amp.GradScaler.__init__, init_scale=2.0**4, growth_interval=3)
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", scaler)
    options = {"accelerator": "cuda", "precision": "16-mixed", "loss": "cce", "checkpoint_steps": 4}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)

    def stop(encoder):
        raise KeyError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "validate", stop)
        with pytest.raises(KeyError):
            tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)
    assert (kept["state"]["step"], kept["scaler"]["scale"], kept["scaler"]["_growth_tracker"]) == (4, 2.0**5, 1)
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    for ours, expected in zip(resumed.history, whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-2)
    first, second = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("a-kept", "b-kept"))
    assert first["scaler"] == second["scaler"]
    assert first["scaler"]["scale"] == 2.0**10  # 18 steps


def step_of(tiny, encoder, loss, optimizer, rows=8):
    """A step as training does it, everything on the device already."""
    host = prepare(tiny.TinyBatches(rows=rows).batch(0, 0))
    moved = host.map(Tensor.cuda)
    items, targets, layout = moved.items, moved.targets, moved.layout

    def step(number):
        with torch.autocast("cuda", torch.bfloat16):
            hidden = encoder(items, layout).bfloat16()
            value = loss(hidden, encoder.item_table, targets, LossContext(seed=1, step=number))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("sampling", ["uniform", "in_batch"])
def test_graphs_with_collective_operations_train_as_those_without(tiny, sampling):
    """A group of one rank, through NCCL: what it adds up is its own, and sizes, offsets and shares come by tensors."""
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    trained = []
    for ranks in (None, Ranks()):
        torch.manual_seed(0)
        encoder = build_encoder(ModelSettings(hidden=16, max_seq_len=10, dropout=0.0), tiny.ITEMS).cuda()
        loss = LossSettings.pick("cce_neg", num_negatives=5, sampling=sampling, sharing="tile", tile_tokens=8)
        training = TrainingSettings(learning_rate=1e-2)
        step_loss, optimizer = StepLoss(encoder, loss, training), build_optimizer(encoder, training)
        graphed = GraphedSteps(step_loss, optimizer, ranks)
        prefetcher = Prefetcher(tiny.TinyBatches(count=20), 1, fill=10, pin=True, ranks=ranks)
        losses = [graphed.run(batch, step) for step, batch in enumerate(prefetcher.epoch(0, 0))]
        trained.append([torch.stack(losses), *tiny.without_keys_bias(encoder.state_dict()).values()])
    for ours, expected in zip(*trained, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("loss", ["cce", "cce_neg"])
def test_a_sharded_table_of_one_rank_trains_as_the_whole(tiny, tmp_path, loss):
    """Through NCCL: lookups, both losses and Adam on own rows, launched and recorded, and the model's file."""
    options = {"loss": loss, "dropout": 0.0, "accelerator": "cuda", "optimizer": "adam_rowwise", "averaging": 0.5}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", items=200, table="replicated", cuda_graphs=True, **options)
    for recorded in (False, True):
        place = tmp_path / str(recorded)
        own = tiny.run(place, place / "kept", items=200, table="sharded", cuda_graphs=recorded, **options)
        for ours, expected in zip(own.history, whole.history, strict=True):
            assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-2)
        first, second = (load(folder / "model.safetensors").item_table for folder in (tmp_path / "a", place))
        torch.testing.assert_close(second, first, rtol=0, atol=1e-2)


GRAPHED = [(model, loss, False) for model in ("sasrec", "bert4rec") for loss in ("cce", "cce_neg", "bce_neg", "gbce")]


@pytest.mark.parametrize(("model", "loss", "compiled"), [*GRAPHED, ("sasrec", "cce", True)])
def test_graphed_steps_train_as_launched_ones(tiny, tmp_path, model, loss, compiled):
    options = {
        "accelerator": "cuda", "model": model, "loss": loss, "dropout": 0.0, "max_epochs": 6, "patience": 6,
        "learning_rate": 3e-3,
    }  # fmt: skip
    plain = tiny.run(tmp_path / "a", tmp_path / "a-kept", cuda_graphs=False, **options)
    recorded = tiny.run(tmp_path / "b", tmp_path / "b-kept", cuda_graphs=True, compile=compiled, **options)
    for ours, expected in zip(recorded.history, plain.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=2e-2)
        assert (ours["step"], ours["tokens"]) == (expected["step"], expected["tokens"])
    losses = [row["train_loss"] for row in plain.history]
    if model == "sasrec":
        assert losses[-1] < 0.9 * losses[0]
    else:  # a masked model sees other places at every epoch, and needs more of them to learn
        assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_batches_on_the_gpu_train_as_those_of_the_host_do(tiny, tmp_path, monkeypatch, cuda_graphs):
    options = {"accelerator": "cuda", "loss": "cce", "dropout": 0.0, "cuda_graphs": cuda_graphs}
    host = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    batch = tiny.TinyBatches.batch

    def on_gpu(self, epoch, index):
        return tiny.TinyBatch(*(None if part is None else part.cuda() for part in batch(self, epoch, index)))

    monkeypatch.setattr(tiny.TinyBatches, "batch", on_gpu)
    device = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    for ours, expected in zip(device.history, host.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-2)


def test_a_graphed_run_resumes_where_it_was(tiny, tmp_path):
    options = {"accelerator": "cuda", "loss": "cce", "cuda_graphs": True, "patience": 4, "averaging": 0.5}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", max_epochs=4, **options)

    def stop_at_the_second(encoder):
        if (tmp_path / "b-kept" / "best-1.safetensors").exists():
            raise KeyError("stop")
        return original(encoder)

    original, tiny.validate = tiny.validate, stop_at_the_second
    try:
        with pytest.raises(KeyError):
            tiny.run(tmp_path / "b", tmp_path / "b-kept", max_epochs=4, **options)
    finally:
        tiny.validate = original
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", max_epochs=4, **options)
    for ours, expected in zip(resumed.history, whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-2)


@pytest.mark.parametrize("optimizer", sorted(KEPT))
def test_lean_updates_are_the_same_on_both_devices(optimizer):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        encoder = build_encoder(ModelSettings(hidden=64, max_seq_len=10), 5000).to(device)
        made = build_optimizer(encoder, TrainingSettings(optimizer=optimizer, learning_rate=0.01))
        for number in range(3):
            grad = torch.randn(5000, 64, generator=torch.Generator().manual_seed(number)).to(device)
            if optimizer == "adam_lazy":
                grad[torch.arange(5000, device=device) % (3 + number) > 0] = 0
            encoder.item_table.grad = grad
            made.step()
        results.append(encoder.item_table.detach().cpu())
    # A moment in bf16 may be rounded the other way: a part of the learning rate.
    torch.testing.assert_close(*results, rtol=0, atol=0.01 * 2**-4)


def graphed_steps(tiny, optimizer="adam", dropout=0.0, seed=0):
    torch.manual_seed(seed)
    encoder = build_encoder(ModelSettings(hidden=64, max_seq_len=12, dropout=dropout), tiny.ITEMS).cuda()
    training = TrainingSettings(optimizer=optimizer)
    loss = StepLoss(encoder, LossSettings(loss="cce"), training)
    return encoder, GraphedSteps(loss, build_optimizer(encoder, training))


def filled_batches(tiny, number, rows=8):
    return [prepare_filled(tiny.TinyBatches(rows=rows).batch(0, index), 12) for index in range(number)]


@pytest.mark.parametrize("optimizer", sorted(KEPT))
def test_a_replay_is_the_step_that_was_recorded(tiny, optimizer):
    batch = filled_batches(tiny, 1, rows=1024)[0]  # torch adds up gradients of 3,072 places and more in other kernels
    losses = {}
    for mode in ("recorded", "plain"):
        encoder, steps = graphed_steps(tiny, optimizer)
        losses[mode] = []
        for number in range(8):
            if mode == "plain":
                steps._graphs.clear()  # every batch is then the first of its size
            losses[mode].append(float(steps.run(batch, number)))
        assert all(parameter.grad is None for parameter in encoder.parameters())
    assert losses["recorded"] == pytest.approx(losses["plain"], rel=1e-3)
    assert losses["plain"][-1] < losses["plain"][0]


def test_sizes_share_memory_and_do_not_disturb_each_other(tiny):
    batches = filled_batches(tiny, 12)
    _, steps = graphed_steps(tiny)
    _, alone = graphed_steps(tiny)
    for number, batch in enumerate(batches * 4):
        mean = float(steps.run(batch, number))
        alone._graphs.clear()
        assert mean == pytest.approx(float(alone.run(batch, number)), rel=1e-2)
    assert 1 < len(steps._graphs) < 12
    assert all(known.graph is not None for known in steps._graphs.values())


def test_dropout_of_a_replay_follows_the_generator(tiny):
    batch = filled_batches(tiny, 1)[0]
    losses = []
    for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 5]):
        _, steps = graphed_steps(tiny, dropout=0.5)
        for number, seed in enumerate(seeds):
            torch.cuda.manual_seed(seed)
            mean = float(steps.run(batch, number))
        losses.append(mean)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[2] != pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam_bf16", "adam_rowwise"])
def test_a_lean_update_needs_no_memory_of_its_own(optimizer):
    items, width = 400_000, 64
    encoder = build_encoder(ModelSettings(hidden=width, max_seq_len=10), items).cuda()
    made = build_optimizer(encoder, TrainingSettings(optimizer=optimizer))
    for _ in range(2):
        encoder.item_table.grad = torch.randn_like(encoder.item_table)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        made.step()
        after = torch.cuda.max_memory_allocated() - before
    assert after < 1 << 20


@pytest.mark.parametrize("rows", [8, 1024])
@pytest.mark.parametrize("loss", ["ce", "ce_neg", "cce", "cce_neg", "bce_neg", "gbce", "sce"])
def test_a_step_never_waits_for_the_device(tiny, loss, rows):
    encoder = build_encoder(ModelSettings(hidden=64, max_seq_len=10), tiny.ITEMS).cuda()
    encoder.lookup = lookup_into_grad
    optimizer = torch.optim.Adam(encoder.parameters(), fused=True)
    function = build_loss(LossSettings.pick(loss, num_negatives=16, sharing="tile"))
    step = step_of(tiny, encoder, function, optimizer, rows)
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
