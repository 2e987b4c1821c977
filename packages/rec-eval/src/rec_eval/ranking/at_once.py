"""Top-k on a GPU where all scores may exist: a product, `torch.topk` and one kernel, with one synchronization.

The passes of `triton_impl.py` cost milliseconds of the host whatever there is to rank. Here the queries are checked
together with the result: an unusual one is given to the other implementations. A single user needs no kernel either,
because the host reads the query and the best scores, and almost always finds them in order.
"""

from itertools import pairwise

import torch
from torch import Tensor

from rec_eval.ranking.scores import Catalogue, finite, may_overflow, tile_scores
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import TopK

MOST_SCORES = 200_000_000
"""Users x items up to which this is the faster way, measured on an H200."""
FEW_USERS = 1
"""Users up to which the host looks at the best scores; measured on an H200 for one user, not for more."""
_TILE_SCORES = 1 << 26
"""Scores that exist at once: 256 MiB."""


def suits(queries: Tensor, num_items: int, k: int) -> bool:
    """Whether to rank this way."""
    if not queries.is_cuda or torch.cuda.get_device_properties(queries.device).major < 8:
        return False
    from rec_eval.ranking.kernels.order import LONGEST

    return 0 < queries.shape[0] * num_items <= MOST_SCORES and k < LONGEST


def rank_at_once(queries: Tensor, catalogue: Catalogue, k: int, seen: SeenItems) -> TopK | None:
    """Rank all users, as `top_k` does; None if a score could overflow, or equal scores end a list.

    Raises:
        ValueError: a query is NaN or infinite.
    """
    from rec_eval.ranking.kernels.order import order_best

    num_users, num_items, queries = queries.shape[0], catalogue.items.shape[0], queries.contiguous()
    step = max(1, _TILE_SCORES // num_items)
    if num_users <= min(FEW_USERS, step):
        on_host = queries.cpu()  # before the product, so that the host looks at it while the device works
        scores, ids = _best(queries, catalogue, k, seen, 0)
        usual = not may_overflow(finite("queries", float(on_host.abs().max())), queries, catalogue)
        if usual and all(_are_in_order(row, k) for row in scores.tolist()):
            return TopK(ids[:, :k].contiguous(), scores[:, :k].contiguous())
    ids = torch.empty(num_users, k, dtype=torch.int64, device=queries.device)
    scores, facts = (torch.empty(*shape, device=queries.device) for shape in ((num_users, k), (2, num_users)))
    with torch.no_grad():
        for start in range(0, num_users, step):
            end = min(start + step, num_users)
            part = (queries, ids, scores, *facts)
            if end - start < num_users:
                part = tuple(x[start:end] for x in part)
            order_best(*_best(part[0], catalogue, k, seen, start), k, *part)
        any_tied, largest = facts.amax(1).tolist()
    if any_tied or may_overflow(finite("queries", largest), queries, catalogue):
        return None
    return TopK(ids, scores)


@torch.no_grad()
def _best(queries: Tensor, catalogue: Catalogue, k: int, seen: SeenItems, start: int) -> tuple[Tensor, Tensor]:
    """The k + 1 best scores ``[u, k + 1]`` of users from ``start`` on, descending, and their ids; at most V of each."""
    scores = tile_scores(queries, catalogue.items, catalogue.bias, check=False)
    if seen.items.numel():
        scores[seen.rows(start, start + queries.shape[0], queries.device)] = float("-inf")
    found: tuple[Tensor, Tensor] = scores.topk(min(k + 1, catalogue.items.shape[0]), dim=1)
    return found


def _are_in_order(scores: list[float], k: int) -> bool:
    """Whether descending scores fill a list and no two are equal, the next after it included. NaN is in no order."""
    return len(scores) >= k and scores[-1] > float("-inf") and all(first > second for first, second in pairwise(scores))
