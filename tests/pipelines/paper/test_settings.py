"""The settings of the paper's points, and which results belong to them."""

from pipelines.paper.settings import is_the_papers_point


def test_ways_of_computing_leave_a_point_where_it_is():
    assert is_the_papers_point(None)
    assert is_the_papers_point("cuda_graphs=true;optimizer=adam_bf16")
    assert not is_the_papers_point("cuda_graphs=true;dropout=0.3")
