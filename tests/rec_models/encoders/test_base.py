import pytest
import torch

from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.packing import layout_of

LONG, SHORT = [3, 1, 4, 1, 5], [9, 2, 6]


@pytest.fixture
def encode(pack):
    """From an encoder and histories to the vectors of each place, one tensor per history."""

    def encoded(encoder, histories, masked=None):
        items, offsets, layout = pack(histories)
        hidden = encoder(items, layout, None if masked is None else torch.tensor(masked))
        return hidden.split(offsets.diff().tolist())

    return encoded


@pytest.fixture
def encode_last(pack):
    """From an encoder and histories to the vectors that rank the next item."""

    def encoded(encoder, histories):
        items, offsets, _ = pack(histories)
        return encoder.encode_last(items, offsets)

    return encoded


def test_item_table_has_one_row_per_item_and_nothing_else_grows_with_the_catalogue(model_name):
    small = build_encoder(ModelSettings(model=model_name), 10).state_dict()
    large = build_encoder(ModelSettings(model=model_name), 25).state_dict()
    assert {name for name in small if small[name].shape != large[name].shape} == {"item_table"}
    assert large["item_table"].shape == (25, 64)


def test_no_place_of_sasrec_sees_the_future(make_encoder, encode):
    encoder = make_encoder("sasrec")
    before, _ = encode(encoder, [LONG, SHORT])
    after, _ = encode(encoder, [[3, 1, 4, 7, 5], SHORT])
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert (after[3:] - before[3:]).abs().amax(-1).min() > 1e-3


def test_every_place_of_bert4rec_sees_both_sides(make_encoder, encode):
    encoder = make_encoder("bert4rec")
    before, _ = encode(encoder, [LONG, SHORT])
    after, _ = encode(encoder, [[3, 1, 7, 1, 5], SHORT])
    assert (after - before).abs().amax(-1).min() > 1e-4


def test_a_history_is_encoded_alike_alone_and_beside_longer_ones(make_encoder, model_name, encode, encode_last):
    encoder = make_encoder(model_name)
    torch.testing.assert_close(encode(encoder, [LONG, SHORT])[1], encode(encoder, [SHORT])[0])
    torch.testing.assert_close(encode_last(encoder, [LONG, SHORT])[1], encode_last(encoder, [SHORT])[0])


def test_positions_count_from_the_end(make_encoder, model_name, encode):
    encoder = make_encoder(model_name)
    long, short = encode(encoder, [LONG, SHORT])
    with torch.no_grad():
        encoder.position_table[4, 0] += 3.0  # the row of the first item of five
    long_after, short_after = encode(encoder, [LONG, SHORT])
    assert (long_after - long).abs().amax(-1).min() > 1e-4
    torch.testing.assert_close(short_after, short, rtol=0, atol=0)


def test_sasrec_ranks_by_the_place_of_the_last_item(make_encoder, encode, encode_last):
    encoder = make_encoder("sasrec")
    long, short = encode(encoder, [LONG, SHORT])
    torch.testing.assert_close(encode_last(encoder, [LONG, SHORT]), torch.stack([long[4], short[2]]))


def test_bert4rec_ranks_by_a_mask_after_the_last_item(make_encoder, encode, encode_last):
    encoder = make_encoder("bert4rec")
    masked = [False] * 5 + [True] + [False] * 3 + [True]
    long, short = encode(encoder, [[*LONG, 0], [*SHORT, 0]], masked)
    torch.testing.assert_close(encode_last(encoder, [LONG, SHORT]), torch.stack([long[5], short[3]]))


def test_bert4rec_drops_the_oldest_item_of_a_full_history(make_encoder, encode_last):
    encoder = make_encoder("bert4rec", max_seq_len=5)
    full = encode_last(encoder, [LONG, SHORT])
    torch.testing.assert_close(full[0], encode_last(encoder, [LONG[1:]])[0])
    torch.testing.assert_close(full[1], encode_last(encoder, [SHORT])[0])


def test_the_item_behind_a_mask_is_not_seen(make_encoder, encode):
    encoder = make_encoder("bert4rec")
    masked = [False, True, False, False, False]
    (hidden,) = encode(encoder, [LONG], masked)
    torch.testing.assert_close(encode(encoder, [[3, 13, 4, 1, 5]], masked)[0], hidden, rtol=0, atol=0)
    assert not torch.allclose(hidden, encode(encoder, [LONG])[0])


def test_packed_gradients_are_those_of_each_history_alone(make_encoder, model_name, encode_last):
    encoder = make_encoder(model_name)
    encode_last(encoder, [LONG, SHORT]).sum().backward()
    together = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    for history in (LONG, SHORT):
        encode_last(encoder, [history]).sum().backward()
    for parameter, expected in zip(encoder.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


PUBLISHED = {"scale_embeddings": True, "attention_dropout": 0.4, "activation": "relu", "norm": "post"}
PAPER = PUBLISHED | {"norm": "query"}


@pytest.mark.parametrize(("model", "options"), [("sasrec", {}), ("bert4rec", PUBLISHED), ("sasrec", PAPER)])
def test_the_network_compiles_whole_and_once_for_all_shapes(model, options):
    torch.compiler.reset()  # the limit on compilations is one for all networks of a process
    encoder = build_encoder(ModelSettings(model=model, hidden=16, max_seq_len=12, dropout=0.0, **options), 30)
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph.forward

    transform = torch.compile(encoder.transform, backend=backend, fullgraph=True, dynamic=True)
    for lengths in ([12, 3, 5], [10, 9, 9, 2], [2, 7]):
        layout = layout_of(torch.tensor(lengths), max(lengths))
        x = torch.randn(sum(lengths), 16)
        found = transform(x, layout)
        assert found.shape == x.shape
        if not options:  # dropout of attention draws other numbers each time
            torch.testing.assert_close(found, encoder.transform(x, layout))
    assert len(compiled) == 1


def test_a_mask_for_sasrec_is_refused(make_encoder, encode):
    with pytest.raises(ValueError, match=r"masked: .* sasrec has no mask vector"):
        encode(make_encoder("sasrec"), [SHORT], [False] * 3)


def test_a_history_above_max_seq_len_is_refused(make_encoder, model_name, encode):
    with pytest.raises(ValueError, match="items: found 7 places, allowed: max_seq_len = 6"):
        encode(make_encoder(model_name), [[0] * 7])


def test_a_catalogue_of_one_item_is_refused(model_name):
    with pytest.raises(ValueError, match="num_items: found 1"):
        build_encoder(ModelSettings(model=model_name), 1)
