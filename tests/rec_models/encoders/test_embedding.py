import torch

from rec_models.encoders.embedding import lookup, lookup_into_grad

ITEMS = torch.tensor([1, 4, 4, 0, 1, 4])


def backward(look, table, watch=None):
    """A tied loss: rows are looked up, changed, and scored against the whole table."""
    table.grad = None
    rows = look(ITEMS, table)
    if watch is not None:
        rows.register_hook(lambda grad: watch.append("lookup"))
    scores = rows.tanh() @ table.T
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2, 3, 4, 5])).backward()
    return table.grad.clone()


def table_of(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Parameter(torch.randn(7, 3, dtype=torch.float64))


def test_adding_to_the_gradient_in_place_gives_the_same_gradient():
    table = table_of()
    torch.testing.assert_close(backward(lookup_into_grad, table), backward(lookup, table))


def test_the_losss_gradient_is_there_first_so_that_no_second_table_is_made():
    table, order = table_of(), []
    table.register_post_accumulate_grad_hook(lambda parameter: order.append("loss"))
    backward(lookup_into_grad, table, order)
    assert order == ["loss", "lookup"]


def test_without_a_loss_on_the_table_a_gradient_is_made():
    table = table_of()
    lookup_into_grad(ITEMS, table).sum().backward()
    assert table.grad.sum(1).tolist() == [3, 6, 0, 0, 9, 0, 0]


def test_gradients_accumulate_over_passes():
    table = table_of()
    once = backward(lookup_into_grad, table)
    rows = lookup_into_grad(ITEMS, table)
    torch.nn.functional.cross_entropy(rows.tanh() @ table.T, torch.tensor([0, 1, 2, 3, 4, 5])).backward()
    torch.testing.assert_close(table.grad, 2 * once)
