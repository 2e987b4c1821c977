"""The fused network is the plain one: to rounding in fp32, within its steps in bf16, with one dropout both ways."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from rec_models.config import ModelSettings
from rec_models.encoders import Encoder, build_encoder
from rec_models.encoders.base import fuses
from rec_models.encoders.embedding import lookup_into_grad
from rec_models.encoders.fused.residual import Dropout, launch_norm_forward
from rec_models.encoders.packing import Layout, heavy_first, layout_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32 = 2e-6 if DEVICE == "cpu" else 1e-5  # products of attention are three TF32 products on a GPU
LENGTHS = [5, 1, 69, 17, 30, 2, 2, 9, 0, 0]  # some tiles hold several histories; a filled batch ends with empty ones
WIDTH = 32


def encoder_of(**changes: object) -> Encoder:
    torch.manual_seed(0)
    settings = {"hidden": WIDTH, "max_seq_len": 70, "dropout": 0.0, **changes}
    encoder = build_encoder(ModelSettings(**settings), 50).to(DEVICE)
    for tensor in encoder.parameters():  # so that no bias is 0, and no score near it
        torch.nn.init.normal_(tensor, std=0.3)
    return encoder


def layout() -> Layout:
    return layout_of(torch.tensor(LENGTHS, device=DEVICE), 70)


def in_float64(encoder: Encoder) -> Encoder:
    exact = build_encoder(encoder.settings, encoder.num_items).to(DEVICE).double()
    exact.load_state_dict(encoder.state_dict())
    return exact.train(encoder.training)


def weights_of(encoder: Encoder) -> list[Tensor]:
    return [tensor for name, tensor in encoder.named_parameters() if name.startswith(("blocks", "norm"))]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def test_the_order_of_tiles_changes_nothing():
    for changes in ({"heads": 2}, {"model": "bert4rec", "heads": 1}):
        encoder = encoder_of(**changes)
        x, upstream = (torch.randn(sum(LENGTHS), WIDTH, device=DEVICE) for _ in range(2))
        plain = layout()
        tiles = torch.from_numpy(heavy_first(plain.places.cpu().numpy(), plain.from_end.cpu().numpy(), plain.width))
        assert tiles.tolist() == [[1, 2, 0], [0, 1, 2]]  # 58 places of the third history lie before tile 1, 11 after
        found = []
        for each in (plain, plain._replace(tiles=tiles.to(DEVICE))):
            hidden = encoder.fused(x.requires_grad_(), each, torch.float32, torch.float32)
            found.append([hidden, *torch.autograd.grad(hidden, [x, *weights_of(encoder)], upstream)])
        assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, 2.0**-5)], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [{"heads": 2}, {"model": "bert4rec", "heads": 1, "activation": "relu", "blocks": 1}],
    ids=["sasrec", "bert4rec"],
)
def test_the_fused_network_and_its_gradients_are_the_plain_ones(changes, dtype, bound):
    if dtype == torch.bfloat16 and changes.get("activation") == "relu":
        changes = {**changes, "activation": "gelu"}  # rounding moves numbers past the kink of relu
    encoder = encoder_of(**changes)
    x, upstream = (torch.randn(sum(LENGTHS), WIDTH, device=DEVICE) for _ in range(2))
    wide = x.double().requires_grad_()
    exact_encoder = in_float64(encoder)
    exact = exact_encoder.transform(wide, layout())
    found = encoder.fused(x.requires_grad_(), layout(), dtype, torch.float32)
    assert error(found, exact) < bound
    gradients = torch.autograd.grad(found, [x, *weights_of(encoder)], upstream)
    expected = torch.autograd.grad(exact, [wide, *weights_of(exact_encoder)], upstream.double())
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient.shape == wanted.shape
        assert gradient.dtype == torch.float32
        assert error(gradient, wanted) < bound


def test_it_embeds_items_and_adds_to_the_gradient_of_their_table():
    encoder = encoder_of(heads=2, scale_embeddings=True)
    items = torch.randint(50, (sum(LENGTHS),), device=DEVICE)
    upstream = torch.randn(len(items), WIDTH, device=DEVICE)
    exact = in_float64(encoder)
    expected = exact(items, layout())
    expected.backward(upstream.double())
    there = torch.randn_like(encoder.item_table)  # the loss's
    encoder.item_table.grad = there.clone()
    found = encoder.fused(items, layout(), torch.float32, torch.float32)
    found.backward(upstream)
    encoder.item_table.grad -= there
    assert error(found, expected) < FP32
    for (name, tensor), wanted in zip(encoder.named_parameters(), exact.parameters(), strict=True):
        assert error(tensor.grad, wanted.grad) < 3 * FP32, name


def test_dropout_has_one_mask_forward_and_backward():
    """With the masks of the kernels, plain torch computes the same; they keep what they should keep."""
    encoder = encoder_of(heads=2, dropout=0.3, blocks=1)
    x, upstream = (torch.randn(sum(LENGTHS), WIDTH, device=DEVICE) for _ in range(2))
    torch.manual_seed(5)
    seed = torch.randint(1 << 62, (), device=DEVICE)  # what the network draws
    ones, gain = torch.ones_like(x), torch.ones(WIDTH, device=DEVICE)
    masks = [launch_norm_forward(None, ones, gain, gain, 1e-5, Dropout(seed, site, 0.3), torch.float32).stream
             for site in range(3)]  # fmt: skip
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7, dtype=torch.float32))}
        assert abs((mask == 0).double().mean() - 0.3) < 5 * (0.21 / mask.numel()) ** 0.5
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])
    exact = in_float64(encoder)
    left = iter(masks)
    exact.dropout.forward = exact.blocks[0].dropout.forward = lambda values: values * next(left).double()
    wide = x.double().requires_grad_()
    expected = exact.transform(wide, layout())
    torch.manual_seed(5)
    found = encoder.fused(x.requires_grad_(), layout(), torch.float32, torch.float32)
    assert error(found, expected) < FP32
    gradients = torch.autograd.grad(found, [x, *weights_of(encoder)], upstream)
    wanted = torch.autograd.grad(expected, [wide, *weights_of(exact)], upstream.double())
    assert max(map(error, gradients, wanted)) < 3 * FP32
    again = encoder.fused(x, layout(), torch.float32, torch.float32)
    assert not torch.equal(again, found)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"norm": "post"}, False), ({"attention_dropout": 0.1}, False), ({"hidden": 24, "heads": 1}, False)],
    ids=["pre", "post", "attention dropout", "heads of 24"],
)
def test_settings_that_it_does_not_know_run_in_the_plain_network(changes, expected):
    encoder = encoder_of(**changes)
    assert not fuses(encoder, layout())
    with torch.autocast("cuda", torch.bfloat16):
        assert fuses(encoder, layout()) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_mixed_precision_is_no_worse_than_in_the_plain_network(model, monkeypatch):
    encoder = encoder_of(model=model, hidden=256)
    items = torch.randint(50, (sum(LENGTHS),), device=DEVICE)
    upstream = torch.randn(len(items), 256, device=DEVICE)
    exact = in_float64(encoder)
    exact(items, layout()).backward(upstream.double())
    encoder.lookup = lookup_into_grad
    errors = []
    for fused in (True, False):
        with nullcontext() if fused else monkeypatch.context() as patch:
            if patch is not None:
                patch.setattr("rec_models.encoders.base.fuses", lambda *_: False)
            encoder.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                hidden = encoder(items, layout())
            hidden.backward(upstream)
            pairs = zip(encoder.parameters(), exact.parameters(), strict=True)
            errors.append([error(tensor.grad, wanted.grad) for tensor, wanted in pairs if wanted.grad is not None])
    assert all(mine < 1.25 * plain + 1e-4 for mine, plain in zip(*errors, strict=True))
