import torch

from rec_eval.ranking.sort_keys import decode_keys, encode_keys


def test_keys_keep_the_order_of_scores_then_ids():
    scores = torch.tensor([-torch.inf, -3.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, 3e38])
    ids = torch.full((8,), 5)
    keys = encode_keys(scores, ids)
    assert (keys.diff() >= 0).all()
    assert keys[3] == keys[4]
    assert decode_keys(keys).scores.tolist() == [*scores[:3].tolist(), 0.0, *scores[4:].tolist()]
    assert decode_keys(keys).ids.tolist() == ids.tolist()
    assert encode_keys(scores[:1], torch.tensor([3])) > encode_keys(scores[:1], torch.tensor([4]))
    top = 2**31 + 10
    assert decode_keys(encode_keys(torch.tensor([1.0]), torch.tensor([top]))).ids.tolist() == [top]
