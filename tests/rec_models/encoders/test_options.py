"""Options of the published networks: each does what it says, and none breaks what holds for the defaults."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.embedding import lookup, lookup_into_grad
from rec_models.encoders.packing import layout_of, padded_layout_of
from rec_models.encoders.transformer import attend
from rec_models.export import export
from rec_models.inference import load
from rec_models.training.loop import fit

HISTORIES = [[3, 1, 4, 1, 5], [9, 2, 6]]
PAPER = {"scale_embeddings": True, "attention_dropout": 0.1, "activation": "relu", "norm": "query"}
OPTIONS = {
    "scaled": {"scale_embeddings": True},
    "dropout": {"attention_dropout": 0.4},
    "relu": {"activation": "relu"},
    "post": {"norm": "post"},
    "query": {"norm": "query"},
    "paper": PAPER,
    "all": {"scale_embeddings": True, "attention_dropout": 0.4, "activation": "relu", "norm": "post"},
}
PAIRS = [*((model, "all") for model in ("sasrec", "bert4rec"))]
PAIRS += [
    ("sasrec", "scaled"),
    ("bert4rec", "dropout"),
    ("bert4rec", "relu"),
    ("sasrec", "post"),
    ("sasrec", "paper"),
    ("bert4rec", "query"),
]
all_pairs = pytest.mark.parametrize(("model_name", "options"), PAIRS, indirect=["options"])


@pytest.fixture
def options(request):
    return OPTIONS[request.param]


@pytest.fixture
def encoder(make_encoder, model_name, options):
    return make_encoder(model_name, **options)


@all_pairs
def test_the_weights_are_those_of_the_defaults(model_name, options):
    def made(**chosen):
        torch.manual_seed(1)
        return build_encoder(ModelSettings(model=model_name, hidden=8, max_seq_len=6, **chosen), 20).state_dict()

    ours, usual = made(**options), made()
    assert list(ours) == list(usual)
    assert all(torch.equal(ours[name], usual[name]) for name in usual)


@all_pairs
def test_no_option_lets_other_histories_or_the_future_in(encoder, model_name, pack):
    def encoded(histories):
        items, _, layout = pack(histories)
        return encoder(items, layout)

    before = encoded(HISTORIES)
    after = encoded([[3, 1, 4, 7, 5], [9, 2, 6]])
    torch.testing.assert_close(after[5:], before[5:], rtol=0, atol=0)
    assert torch.equal(after[:3], before[:3]) == (model_name == "sasrec")


@all_pairs
def test_packed_is_padded_is_each_history_alone(encoder, pack):
    items, offsets, _ = pack(HISTORIES)
    packed = encoder.encode_last(items, offsets)
    inputs = torch.tensor([[3, 1, 4, 1, 5, 0], [9, 2, 6, 0, 0, 0]]).flatten()
    lengths = torch.tensor([5, 3])
    padded = encoder.encode_ends(inputs, torch.tensor([4, 8]), lengths, partial(padded_layout_of, width=6))
    torch.testing.assert_close(padded, packed)
    items, offsets, _ = pack(HISTORIES[1:])
    torch.testing.assert_close(encoder.encode_last(items, offsets)[0], packed[1])


def test_an_exported_encoder_agrees(make_encoder, tmp_path, pack):
    encoder = make_encoder("bert4rec", **OPTIONS["all"]).float()
    export(encoder, tmp_path / "encoder.pt2")
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    inputs = torch.tensor([[3, 1, 4, 1, 5, 0], [9, 2, 6, 0, 0, 0]])
    vectors, scores = program(inputs, torch.tensor([5, 3]))
    items, offsets, _ = pack(HISTORIES)
    torch.testing.assert_close(vectors, encoder.encode_last(items, offsets))
    torch.testing.assert_close(scores, vectors @ encoder.item_table.T)


@all_pairs
def test_a_run_goes_well_and_its_checkpoint_knows(tiny, tmp_path, model_name, options):
    settings = ModelSettings(model=model_name, hidden=16, max_seq_len=10, **options)
    epochs = 5 if model_name == "sasrec" else 2  # BERT4Rec takes longer to learn anything, whatever the options
    result = fit(
        model=settings,
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(max_epochs=epochs, learning_rate=1e-2, accelerator="cpu"),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(model=model_name),
        validate=tiny.validate,
        out=tmp_path / "out",
        checkpoint_dir=tmp_path / "kept",
    )
    first, last = (result.history[epoch]["train_loss"] for epoch in (0, -1))
    assert last < (0.8 if model_name == "sasrec" else 1.01) * first
    encoder = load(tmp_path / "out" / "model.safetensors")
    assert encoder.settings == settings
    assert tiny.validate(encoder) == result.metrics


def test_items_and_the_mask_are_scaled_and_positions_are_not(make_encoder):
    encoder = make_encoder("bert4rec", scale_embeddings=True)
    layout = layout_of(torch.tensor([3]), 3)
    items, masked = torch.tensor([4, 0, 6]), torch.tensor([False, True, False])
    rows = torch.stack([encoder.item_table[4], encoder.mask_vector, encoder.item_table[6]])
    expected = math.sqrt(8) * rows + encoder.position_table[[2, 1, 0]]
    torch.testing.assert_close(encoder.embed(items, layout, masked), expected)


def test_scaled_vectors_send_a_scaled_gradient_to_the_one_table(make_encoder, pack):
    encoder = make_encoder("sasrec", scale_embeddings=True)
    items, offsets, _ = pack(HISTORIES)
    found = []
    for way in (lookup, lookup_into_grad):
        encoder.zero_grad()
        encoder.lookup = way
        hidden = encoder.encode_last(items, offsets)
        (hidden @ encoder.item_table.T).square().sum().backward()
        found.append(encoder.item_table.grad.clone())
    torch.testing.assert_close(*found)


def by_hand(encoder, x, *, post, activation):
    """One block on one history of SASRec, in plain matrix products."""
    (block,) = encoder.blocks

    def attention(x):
        q, k, v = block.query_key_value(x).view(len(x), 3, 2, -1).permute(1, 2, 0, 3)  # [H, T, d]
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf).softmax(-1)
        return block.attention_out((weights @ v).transpose(0, 1).flatten(1))

    def feed(x):
        return block.feed_out(activation(block.feed_in(x)))

    if post:
        x = block.attention_norm(encoder.norm(x) + attention(encoder.norm(x)))
        return block.feed_norm(x + feed(x))
    x = x + attention(block.attention_norm(x))
    return encoder.norm(x + feed(block.feed_norm(x)))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_is_what_its_settings_say(make_encoder, norm, activation):
    encoder = make_encoder("sasrec", blocks=1, norm=norm, activation=activation)
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = by_hand(encoder, x, post=norm == "post", activation=getattr(functional, activation))
    torch.testing.assert_close(encoder.transform(x, layout_of(torch.tensor([5]), 5)), expected)


class Scaled(torch.nn.Module):
    """In place of dropout: what it drops is random, where it is is not."""

    def forward(self, x):
        return 0.7 * x


def published(encoder, items):
    """SASRec as RePlay and the paper have it, on one history, from torch's own attention and convolutions."""
    width, heads = encoder.settings.hidden, encoder.settings.heads
    drop = Scaled()

    def normalized(norm, x):
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 1e-8).sqrt() * norm.weight + norm.bias

    places = torch.arange(len(items)).flip(0)
    x = drop(encoder.item_table[items] * width**0.5 + encoder.position_table[places])
    for block in encoder.blocks:
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True).double()
        attention.in_proj_weight.data, attention.in_proj_bias.data = (
            block.query_key_value.weight.data,
            block.query_key_value.bias.data,
        )
        attention.out_proj.load_state_dict(block.attention_out.state_dict())
        later = torch.ones(len(items), len(items)).triu(1).bool()
        query = normalized(block.attention_norm, x)
        attended, _ = attention(query[None], x[None], x[None], attn_mask=later)
        y = normalized(block.feed_norm, query + attended[0])

        def convolved(layer, x):
            return functional.conv1d(x.T[None], layer.weight[:, :, None], layer.bias)[0].T

        x = y + drop(convolved(block.feed_out, torch.relu(drop(convolved(block.feed_in, y)))))
    return normalized(encoder.norm, x)


def test_the_papers_network_is_its_published_one(make_encoder, pack):
    encoder = make_encoder("sasrec", blocks=2, **PAPER)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn_like(parameter))  # norms and biases too
    for module in (encoder, *encoder.blocks):
        module.dropout = Scaled()
    items, _, layout = pack(HISTORIES)
    expected = [published(encoder, torch.tensor(history)) for history in HISTORIES]
    torch.testing.assert_close(encoder(items, layout), torch.cat(expected))


def test_the_papers_first_weights_are_xaviers():
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(hidden=128, max_seq_len=100, initialization="xavier"), 900)
    sizes = {"item_table": (900, 128), "position_table": (100, 128), "query_key_value": (384, 128)}
    for name, weights in encoder.named_parameters():
        layer, _, kind = name.removeprefix("blocks.").lstrip("0123456789.").rpartition(".")
        if weights.dim() == 2:  # normal with variance 2 / (rows + columns)
            rows, columns = sizes.get(layer or kind, (128, 128))
            unit = weights / math.sqrt(2 / (rows + columns))
            assert abs(unit.std() - 1) < 5 / math.sqrt(2 * unit.numel())
            assert unit.abs().max() > 3  # no uniform distribution reaches that
        elif layer in ("feed_in", "feed_out"):
            assert 0.8 / math.sqrt(128) < weights.abs().max() <= 1 / math.sqrt(128)
        elif kind == "bias":
            assert not weights.any()


def test_dropout_of_attention_takes_whole_weights_and_scales_the_rest():
    torch.manual_seed(0)
    qkv = torch.rand(4000, 3, 2, 4) + 1
    layout = layout_of(torch.ones(4000, dtype=torch.int64), 1)  # histories of one item: its weight is 1
    ratio = attend(qkv, layout, causal=True, dropout=0.25).view(4000, 2, 4) / qkv[:, 2]
    kept = ratio[..., 0] > 0
    torch.testing.assert_close(ratio, (kept / 0.75)[..., None].expand_as(ratio))
    assert abs(kept.float().mean() - 0.75) < 0.02


def test_attention_drops_nothing_outside_training(make_encoder, model_name, pack):
    dropping, usual = make_encoder(model_name, attention_dropout=0.5), make_encoder(model_name)
    items, _, layout = pack(HISTORIES)
    assert torch.equal(dropping(items, layout), usual(items, layout))
    assert dropping.settings == replace(usual.settings, attention_dropout=0.5)
    dropping.train()
    assert not torch.allclose(dropping(items, layout), usual(items, layout))
