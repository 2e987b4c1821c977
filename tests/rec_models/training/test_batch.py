import torch

from rec_models.training.batch import prepare
from rec_models.training.cuda_graphs import prepare_filled


def test_places_without_a_target_are_left_out(tiny):
    masked = torch.tensor([False, True, False, True])
    batch = tiny.TinyBatch(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 3, 4]), torch.tensor([6, -100, 9, 3]), masked)
    step = prepare(batch)
    assert step.items.tolist() == [5, 6, 7, 8]
    assert step.masked.tolist() == [False, True, False, True]
    assert step.rows.tolist() == [0, 2, 3]
    assert step.targets.tolist() == [6, 9, 3]
    assert step.layout.starts.tolist() == [0, 3, 4]
    assert step.layout.from_end.tolist() == [2, 1, 0, 0]
    assert step.layout.pad(step.items).tolist() == [[5, 6, 7], [8, 0, 0]]


def test_targets_everywhere_need_no_rows(tiny):
    assert prepare(tiny.TinyBatches().batch(0, 0)).rows is None


def test_the_tensors_of_a_batch_come_in_one_order_and_a_change_reaches_each(tiny, model_name):
    step = prepare(tiny.TinyBatches(model=model_name).batch(0, 0))
    assert len(step.tensors()) == (8 if model_name == "bert4rec" else 6)
    doubled = step.map(lambda tensor: tensor + tensor)
    for ours, expected in zip(doubled.tensors(), step.tensors(), strict=True):
        assert torch.equal(ours, expected + expected)
    assert (doubled.window_counts, doubled.layout.width) == (step.window_counts, step.layout.width)


def test_a_batch_in_one_buffer_is_the_same(tiny, model_name):
    step = prepare_filled(tiny.TinyBatches(model=model_name).batch(0, 0), 12)
    packed = step.in_one_buffer(pin=False)
    moved = packed.to(torch.device("cpu"))
    assert packed.map(lambda tensor: tensor).buffer is None
    for one in (packed, moved):
        begin, end = one.buffer.data_ptr(), one.buffer.data_ptr() + one.buffer.numel()
        for ours, theirs in zip(one.tensors(), step.tensors(), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.dtype == theirs.dtype
            assert begin <= ours.data_ptr() < end
            assert (ours.data_ptr() - begin) % 16 == 0
        assert (one.masked is None, one.rows is None) == (step.masked is None, step.rows is None)
