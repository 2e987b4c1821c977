"""Top-k on a GPU where all scores may exist: a product, a selection, and one synchronization.

The passes of `triton_impl.py` cost milliseconds of the host whatever there is to rank. Here the queries are checked
together with the result: an unusual one is given to the other implementations.
"""

import torch
from torch import Tensor

from rec_eval.ranking.scores import Catalogue, finite, may_overflow, tile_scores
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import TopK

MOST_SCORES, MOST_SCORES_OF_SHORT_LISTS = 200_000_000, 400_000_000
"""Users x items up to which this is the faster way, measured on an H200; lists are short up to `select.LONGEST`."""
_TILE_SCORES = 1 << 26
"""Scores that exist at once: 256 MiB."""


def suits(queries: Tensor, num_items: int, k: int) -> bool:
    """Whether to rank this way."""
    if not queries.is_cuda or torch.cuda.get_device_properties(queries.device).major < 8:
        return False
    from rec_eval.ranking.kernels import order, select

    most = MOST_SCORES_OF_SHORT_LISTS if k <= select.LONGEST else MOST_SCORES
    return 0 < queries.shape[0] * num_items <= most and k < order.LONGEST


@torch.no_grad()
def rank_at_once(queries: Tensor, catalogue: Catalogue, k: int, seen: SeenItems) -> TopK | None:
    """Rank all users, as `top_k` does; None if a score could overflow, or equal scores end a list of more than 32.

    Raises:
        ValueError: a query is NaN or infinite.
    """
    from rec_eval.ranking.kernels import order, select

    num_users, num_items, queries = queries.shape[0], catalogue.items.shape[0], queries.contiguous()
    ids = torch.empty(num_users, k, dtype=torch.int64, device=queries.device)
    scores = torch.empty(num_users, k, dtype=torch.float32, device=queries.device)
    largest = torch.empty(num_users, dtype=torch.float32, device=queries.device)
    tied = None if k <= select.LONGEST else torch.empty_like(largest)
    step = max(1, _TILE_SCORES // num_items)
    for start in range(0, num_users, step):
        users = slice(start, start + step)
        values = tile_scores(queries[users], catalogue.items, catalogue.bias, check=False)
        if seen.items.numel():
            values[seen.rows(start, min(start + step, num_users), queries.device)] = float("-inf")
        given = (k, queries[users], ids[users], scores[users], largest[users])
        if tied is None:
            select.select_best(values, *given)
        else:
            best, places = values.topk(min(k + 1, num_items), dim=1)
            order.order_best(best, places, *given, tied[users])
    # One number needs no kernel.
    facts = [float(fact if num_users == 1 else fact.max()) for fact in (largest, tied) if fact is not None]
    if may_overflow(finite("queries", facts[0]), queries, catalogue) or any(facts[1:]):
        return None
    return TopK(ids, scores)
