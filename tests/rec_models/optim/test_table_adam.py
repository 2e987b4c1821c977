import copy

import pytest
import torch

from rec_models.config import ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.optim.build import KEPT, build_optimizer
from rec_models.optim.table_adam import adam_lazy_rows, adam_rows

RATE, BETAS, EPSILON = 0.01, (0.9, 0.98), 1e-8
# What rounding a moment to 8 bits of fraction, again and again, may do to a step of size RATE.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-3}


def in_float64(table, grads, *, rowwise=False, decay=0.0):
    """Adam as its paper writes it; each gradient has all rows."""
    w, m, v = table.double(), 0.0, 0.0
    for count, grad in enumerate(grads, 1):
        g = grad.double() + decay * w
        square = (g * g).mean(1, keepdim=True) if rowwise else g * g
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * square
        w = w - RATE * (m / (1 - BETAS[0] ** count)) / ((v / (1 - BETAS[1] ** count)).sqrt() + EPSILON)
    return w


def encoder_of(items=11, width=8):
    torch.manual_seed(0)
    return build_encoder(ModelSettings(hidden=width, max_seq_len=4), items)


def settings_of(optimizer, **more):
    return TrainingSettings(optimizer=optimizer, learning_rate=RATE, **more)


def some_grads(like, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    scales = [3.0, 0.1, 1.0, 1e-3, 1.0]
    return [scales[k % 5] * torch.randn(like.shape, generator=generator) for k in range(count)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "adam_bf16", "adam_rowwise"])
def test_dense_updates_are_adams(optimizer, decay):
    encoder = encoder_of()
    start = copy.deepcopy(encoder.state_dict())
    made = build_optimizer(encoder, settings_of(optimizer, weight_decay=decay))
    grads = {name: some_grads(parameter, 12) for name, parameter in encoder.named_parameters()}
    for number in range(12):
        for name, parameter in encoder.named_parameters():
            parameter.grad = grads[name][number].clone()
        made.step()
    moments = KEPT[optimizer].moments
    for name, parameter in encoder.named_parameters():
        is_table = name == "item_table"
        rowwise = is_table and optimizer == "adam_rowwise"
        expected = in_float64(start[name], grads[name], rowwise=rowwise, decay=decay)
        tolerance = ROUNDING[moments if is_table else torch.float32]
        torch.testing.assert_close(parameter.double(), expected, rtol=0, atol=tolerance)
        assert (expected - start[name]).abs().max() > 10 * tolerance


def of_rows(rows, values, like):
    """A gradient of these rows alone; repeated ones are added up."""
    return torch.zeros_like(like).index_add(0, torch.tensor(rows), values)


def test_lazy_adam_touches_no_other_rows():
    encoder = encoder_of()
    made = build_optimizer(encoder, settings_of("adam_lazy"))
    start = encoder.item_table.detach().clone()
    for rows in ([0, 3, 3], [3, 10, 0], [7, 7, 7]):
        encoder.item_table.grad = of_rows(rows, torch.ones(3, 8), start)
        made.step()
    changed = (encoder.item_table != start).any(1).nonzero().flatten().tolist()
    assert changed == [0, 3, 7, 10]
    # The gradients of row 7 are one of 3, in the third step.
    m, v = 0.1 * 3.0, 0.02 * 9.0
    moved = RATE * (m / (1 - 0.9**3)) / ((v / (1 - 0.98**3)) ** 0.5 + EPSILON)
    torch.testing.assert_close(start[7] - encoder.item_table[7], torch.full((8,), moved))


def test_lazy_adam_where_every_row_is_always_touched_is_rowwise_adam():
    nets = encoder_of(), encoder_of()
    for net, name in zip(nets, ("adam_lazy", "adam_rowwise"), strict=True):
        made = build_optimizer(net, settings_of(name))
        for grad in some_grads(net.item_table, 6):
            net.item_table.grad = grad
            made.step()
    assert torch.equal(nets[0].item_table, nets[1].item_table)


def test_lazy_adam_catches_up_with_adam():
    encoder = encoder_of(items=20)
    start = encoder.item_table.detach().clone()
    made = build_optimizer(encoder, settings_of("adam_lazy"))
    theirs = torch.nn.Parameter(start.clone())
    without = torch.optim.SparseAdam([theirs], lr=RATE, betas=BETAS, eps=EPSILON)
    generator, grads = torch.Generator().manual_seed(3), []
    for _ in range(300):
        rows = torch.randperm(20, generator=generator)[:2].tolist()  # a row is touched in every tenth step
        values = 1.0 + torch.randn(2, 8, generator=generator)
        grads.append(of_rows(rows, values, start))
        encoder.item_table.grad, theirs.grad = grads[-1], grads[-1].to_sparse(1)
        made.step()
        without.step()
    made.catch_up()
    made.catch_up()  # nothing is missing any more
    adam = in_float64(start, grads, rowwise=True)
    distance = (adam - start).norm()
    assert (encoder.item_table - adam).norm() < 0.02 * distance
    assert (theirs - adam).norm() > 0.5 * distance  # what leaving the steps between out would do


@pytest.mark.parametrize("optimizer", sorted(KEPT))
def test_a_state_that_was_kept_goes_on_bit_for_bit(optimizer):
    encoder = encoder_of()
    made = build_optimizer(encoder, settings_of(optimizer))
    grads = some_grads(encoder.item_table, 4)

    def advance(on, table, numbers):
        for number in numbers:
            table.grad = grads[number].clone()
            on.step()

    advance(made, encoder.item_table, [0, 1])
    again = copy.deepcopy(encoder)
    resumed = build_optimizer(again, settings_of(optimizer))
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    kept = resumed.state[again.item_table]
    assert kept["exp_avg"].dtype == KEPT[optimizer].moments
    advance(made, encoder.item_table, [2, 3])
    advance(resumed, again.item_table, [2, 3])
    assert torch.equal(again.item_table, encoder.item_table)


# Bytes an element of the table, beyond the table and its gradient, and bytes a row, from the formula of each.
KEPT_BYTES = {"adam": (8, 0), "adam_bf16": (4, 0), "adam_rowwise": (2, 4), "adam_lazy": (2, 8)}


@pytest.mark.parametrize("optimizer", sorted(KEPT))
def test_memory_of_the_tables_state(optimizer):
    encoder = encoder_of(items=100, width=64)
    made = build_optimizer(encoder, settings_of(optimizer))
    encoder.item_table.grad = torch.zeros(100, 64)
    made.step()
    kept = sum(tensor.nbytes for tensor in made.state[encoder.item_table].values())
    element, row = KEPT_BYTES[optimizer]
    assert kept == element * 100 * 64 + row * 100 + 4  # and the count of steps


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rowwise", [False, True], ids=["full", "rowwise"])
@pytest.mark.parametrize("lazy", [False, True], ids=["all", "lazy"])
@pytest.mark.parametrize("width", [20, 64])
def test_the_kernel_updates_as_plain_torch_does(width, lazy, rowwise, moments):
    pytest.importorskip("triton")
    from rec_models.optim.adam_rows import launch_adam_rows

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(2)
    items = 300  # more than one program, the last one in part
    table = torch.randn(items, width, generator=generator)
    first = torch.zeros(items, width, dtype=moments)
    second = torch.zeros(items, 1) if rowwise else torch.zeros(items, width, dtype=moments)
    state = [table, first, second, *[torch.zeros(items, 1, dtype=torch.int32)] * lazy]
    plain = [tensor.clone() for tensor in state]
    on_device = [tensor.to(device, copy=True) for tensor in state]
    group = {"lr": RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": 0.0 if lazy else 0.1}
    for count, grad in enumerate(some_grads(table, 3), 1):
        step = torch.tensor(float(count))
        if lazy:
            grad[torch.rand(items, generator=generator) < 0.6] = 0.0
            grad[100:200] = 0.0  # programs without a row
        (adam_lazy_rows if lazy else adam_rows)(plain[0], grad, *plain[1:], step, group)
        launch_adam_rows(
            on_device[0], grad.to(device), *on_device[1:3], step.to(device), group, on_device[3] if lazy else None
        )
    assert not lazy or torch.equal(on_device.pop().cpu(), plain.pop())
    # In bf16 a moment may be rounded the other way, which moves the next steps by a part of RATE.
    exact = moments == torch.float32
    torch.testing.assert_close(on_device[0].cpu(), plain[0], rtol=0, atol=1e-6 if exact else RATE * 2**-4)
    for ours, theirs in zip(on_device[1:], plain[1:], strict=True):
        torch.testing.assert_close(
            ours.cpu().float(), theirs.float(), rtol=1e-5 if exact else 2**-6, atol=1e-7 if exact else 2**-5
        )


def test_many_tensors_in_one_launch_are_updated_as_each_alone_is(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    from rec_models.optim import adam_tensors

    monkeypatch.setattr(adam_tensors, "_MOST", 3)  # two launches
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(3)
    shapes = [(64, 40), (7,), (2, 1024), (1,), (1030,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    steps = [torch.tensor(float(count)) for count in (3, 1, 1, 2, 1)]
    state = [[torch.rand(shape, generator=generator) for shape in shapes] for _ in range(3)]  # gradients and moments
    group = {"lr": RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": 0.1}
    found = [[tensor.to(device, copy=True) for tensor in part] for part in (tensors, *state, steps)]
    adam_tensors.launch_adam_tensors(*found, group)
    for tensor, grad, first, second, step in zip(tensors, *state, steps, strict=True):
        adam_rows(*(part.view(1, -1) for part in (tensor, grad, first, second)), step, group)
    for ours, theirs in zip((*found[0], *found[2], *found[3]), (*tensors, *state[1], *state[2]), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6)
