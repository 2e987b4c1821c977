import pytest
import torch

from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.packing import layout_of

INPUTS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])
LENGTHS = torch.tensor([5, 3])


def test_item_table_has_one_row_an_item_and_nothing_else_grows_with_the_catalogue(model_name):
    small = build_encoder(ModelSettings(model=model_name), 10).state_dict()
    large = build_encoder(ModelSettings(model=model_name), 25).state_dict()
    assert {name for name in small if small[name].shape != large[name].shape} == {"item_table"}
    assert large["item_table"].shape == (25, 64)


def test_no_place_of_sasrec_sees_the_future(make_encoder):
    encoder = make_encoder("sasrec")
    before = encoder(INPUTS, LENGTHS)
    changed = INPUTS.clone()
    changed[0, 3] = 7
    after = encoder(changed, LENGTHS)
    torch.testing.assert_close(after[0, :3], before[0, :3], rtol=0, atol=0)
    assert (after[0, 3:] - before[0, 3:]).abs().amax(-1).min() > 1e-3


def test_every_place_of_bert4rec_sees_both_sides(make_encoder):
    encoder = make_encoder("bert4rec")
    before = encoder(INPUTS, LENGTHS)
    changed = INPUTS.clone()
    changed[0, 2] = 7
    assert (encoder(changed, LENGTHS)[0] - before[0]).abs().amax(-1).min() > 1e-4


def test_what_stands_at_padded_places_changes_nothing(make_encoder, model_name):
    encoder = make_encoder(model_name)
    padded = INPUTS.clone()
    padded[1, 3:] = 17
    torch.testing.assert_close(encoder(padded, LENGTHS), encoder(INPUTS, LENGTHS), rtol=0, atol=0)


def test_a_history_is_encoded_alike_alone_and_beside_longer_ones(make_encoder, model_name):
    encoder = make_encoder(model_name)
    beside = encoder(INPUTS, LENGTHS)[1, :3]
    alone = encoder(INPUTS[1:, :3], LENGTHS[1:])[0]
    torch.testing.assert_close(beside, alone)
    torch.testing.assert_close(
        encoder.encode_last(INPUTS, LENGTHS)[1], encoder.encode_last(INPUTS[1:, :3], LENGTHS[1:])[0]
    )


def test_positions_count_from_the_end(make_encoder, model_name):
    encoder = make_encoder(model_name)
    long, short = encoder(INPUTS, LENGTHS)[0, :5], encoder(INPUTS, LENGTHS)[1, :3]
    with torch.no_grad():
        encoder.position_table[4, 0] += 3.0  # the row of the first item of five
    after = encoder(INPUTS, LENGTHS)
    assert (after[0, :5] - long).abs().amax(-1).min() > 1e-4
    torch.testing.assert_close(after[1, :3], short, rtol=0, atol=0)


def test_sasrec_ranks_by_the_place_of_the_last_item(make_encoder):
    encoder = make_encoder("sasrec")
    hidden = encoder(INPUTS, LENGTHS)
    expected = torch.stack([hidden[0, 4], hidden[1, 2]])
    torch.testing.assert_close(encoder.encode_last(INPUTS, LENGTHS), expected)


def test_bert4rec_ranks_by_a_mask_after_the_last_item(make_encoder):
    encoder = make_encoder("bert4rec")
    appended = torch.tensor([[3, 1, 4, 1, 5, 0], [9, 2, 6, 0, 0, 0]])
    masked = torch.zeros(2, 6, dtype=torch.bool)
    masked[0, 5] = masked[1, 3] = True
    hidden = encoder(appended, LENGTHS + 1, masked)
    torch.testing.assert_close(encoder.encode_last(INPUTS, LENGTHS), torch.stack([hidden[0, 5], hidden[1, 3]]))


def test_bert4rec_drops_the_oldest_item_of_a_full_history(make_encoder):
    encoder = make_encoder("bert4rec", max_seq_len=5)
    full = encoder.encode_last(INPUTS, LENGTHS)
    oldest_gone = encoder.encode_last(torch.tensor([[1, 4, 1, 5]]), torch.tensor([4]))
    torch.testing.assert_close(full[0], oldest_gone[0])
    three_items = encoder.encode_last(torch.tensor([[9, 2, 6]]), torch.tensor([3]))
    torch.testing.assert_close(full[1], three_items[0])


def test_the_item_behind_a_mask_is_not_seen(make_encoder):
    encoder = make_encoder("bert4rec")
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[0, 1] = True
    changed = INPUTS.clone()
    changed[0, 1] = 13
    torch.testing.assert_close(encoder(changed, LENGTHS, masked), encoder(INPUTS, LENGTHS, masked), rtol=0, atol=0)
    assert not torch.allclose(encoder(INPUTS, LENGTHS, masked)[0], encoder(INPUTS, LENGTHS)[0])


def test_packed_gradients_are_those_of_each_history_alone(make_encoder, model_name):
    encoder = make_encoder(model_name)
    encoder.encode_last(INPUTS, LENGTHS).sum().backward()
    together = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    encoder.encode_last(INPUTS[:1], LENGTHS[:1]).sum().backward()
    encoder.encode_last(INPUTS[1:, :3], LENGTHS[1:]).sum().backward()
    for parameter, expected in zip(encoder.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_the_network_compiles_whole_and_once_for_all_shapes(model_name):
    encoder = build_encoder(ModelSettings(model=model_name, hidden=16, max_seq_len=12, dropout=0.0), 30)
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph.forward

    transform = torch.compile(encoder.transform, backend=backend, fullgraph=True, dynamic=True)
    for lengths in ([12, 3, 5], [10, 9, 9, 2], [2, 7]):
        layout = layout_of(torch.tensor(lengths), max(lengths))
        x = torch.randn(sum(lengths), 16)
        torch.testing.assert_close(transform(x, layout), encoder.transform(x, layout))
    assert len(compiled) == 1


def test_a_mask_for_sasrec_is_refused(make_encoder):
    with pytest.raises(ValueError, match=r"masked: .* sasrec has no mask vector"):
        make_encoder("sasrec")(INPUTS, LENGTHS, torch.zeros(2, 5, dtype=torch.bool))


def test_a_history_above_max_seq_len_is_refused(make_encoder, model_name):
    with pytest.raises(ValueError, match="inputs: found 7 places, allowed: max_seq_len = 6"):
        make_encoder(model_name)(torch.zeros(1, 7, dtype=torch.int64), torch.tensor([7]))


def test_a_catalogue_of_one_item_is_refused(model_name):
    with pytest.raises(ValueError, match="num_items: found 1"):
        build_encoder(ModelSettings(model=model_name), 1)
