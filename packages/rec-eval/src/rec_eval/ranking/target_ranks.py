"""Exact ranks of one target per user, without sorting, for early stopping after every epoch.

A rank is one plus the number of better items, so it is enough to count these in one pass over the catalogue.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rec_eval.checks import check_ids
from rec_eval.ranking.parts import Part
from rec_eval.ranking.scores import Catalogue, as_catalogue, check_scoring, tile_scores
from rec_eval.ranking.seen import SeenItems

_DEFAULT_TILES = {"cpu": (4096, 512), "cuda": (65536, 1024)}
"""Items and users of a tile; of a smaller catalogue, more users."""
_COLUMNS = 64
"""Products have a multiple of so many columns, whole blocks of all kernels: some round what is left over otherwise."""


def target_ranks(
    queries: Tensor,
    items: Tensor | Catalogue,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    seen_offsets: Tensor | None = None,
    seen_items: Tensor | None = None,
    item_tile: int | None = None,
    user_tile: int | None = None,
    part: Part | None = None,
) -> Tensor:
    """Rank each user's target among the items not yet seen, with the tie rule of ``top_k`` (lower id first).

    The targets are ``[U]`` integers in [0, V); the other arguments, with their shapes, are those of ``top_k``.

    With a ``part``, ``items`` are its rows of the catalogue, and all processes call this with the same users.

    Memory in addition to inputs and output is at most ``9 * user_tile * item_tile + 4 * D * (user_tile + item_tile)``
    bytes, with the item tile rounded up to a multiple of 64, and the seen items of a user tile.

    Returns:
        ``[U]`` int64 on the device of ``queries``, from 1. A target that the user has seen, or whose bias is -inf,
        cannot be recommended: its rank is V + 1, a miss at every k <= V.

    Raises:
        ValueError: as for ``top_k``, or a target is outside the catalogue.
    """
    catalogue = as_catalogue(items, bias)
    check = check_scoring(queries, catalogue)
    vectors, bias = catalogue.items, catalogue.bias
    num_users, num_rows = queries.shape[0], vectors.shape[0]
    num_items = num_rows if part is None else part.num_items
    if targets.shape != (num_users,) or targets.is_floating_point():
        raise ValueError(f"targets must be [{num_users}] integers, got {list(targets.shape)} {targets.dtype}")
    check_ids("targets", targets, num_items)
    device = queries.device
    defaults = _DEFAULT_TILES.get(device.type, _DEFAULT_TILES["cpu"])
    item_tile = min(defaults[0] if item_tile is None else item_tile, num_rows if part is None else part.most_rows)
    user_tile = defaults[1] * max(1, defaults[0] // max(1, item_tile)) if user_tile is None else user_tile
    if not 1 <= item_tile <= 1 << 24 or user_tile < 1:
        raise ValueError(
            f"item_tile must lie between 1 and 2^24 and user_tile be at least 1, got {item_tile} and {user_tile}"
        )
    # All products have one shape, of whole blocks of columns, so that equal items have equal scores. The last ones
    # overlap those before; a catalogue of fewer items is filled up with copies of one.
    width = -(-item_tile // _COLUMNS) * _COLUMNS
    if num_rows < width:
        vectors, bias = _filled(vectors, width), None if bias is None else _filled(bias, width)
    starts = [min(start, vectors.shape[0] - width) for start in range(0, num_rows, item_tile)]
    bounds = [*range(0, num_rows, item_tile), num_rows]
    seen = SeenItems(seen_offsets, seen_items, num_users, num_items)
    here = seen if part is None else part.seen(seen)
    ranks = torch.empty(num_users, dtype=torch.int64, device=device)
    with torch.no_grad():
        for begin in range(0, num_users, user_tile):
            end = min(begin + user_tile, num_users)
            # Sorted by target, users form three runs: target before, inside and after the item tile.
            own_ids, order = targets[begin:end].to(device).long().sort()  # [u]
            # The row of each target; of one that is elsewhere the first row with a higher id.
            own_rows, is_here = (own_ids, None) if part is None else part.rows_of(own_ids)
            place = torch.empty_like(order)
            place[order] = torch.arange(order.numel(), device=device)
            chosen = queries[begin:end][order]  # [u, D]
            # One tile holds all scores, the targets' among them. [u, 1]
            own: Tensor | None = None
            if part is not None and is_here is not None:
                safe = own_rows.clamp(max=num_rows - 1)
                own = part.sum(torch.where(is_here[:, None], _own_scores(chosen, vectors, safe, bias, width, check), 0))
            elif len(starts) > 1:
                own = _own_scores(chosen, vectors, own_ids, bias, width, check)
            ahead = torch.zeros(end - begin, dtype=torch.int64, device=device)
            blocked = torch.zeros(end - begin, dtype=torch.int32, device=device)  # how often the target was seen
            cuts = [0, end - begin]
            if len(starts) > 1 or part is not None:
                cuts = torch.searchsorted(own_rows, torch.tensor(bounds, device=device)).tolist()
            seen_tiles = here.tiles(begin, end, bounds, device)
            for tile, (rows, columns) in enumerate(seen_tiles):
                start, first, end_of_tile = starts[tile], bounds[tile], bounds[tile + 1]
                tile_bias = None if bias is None else bias[start : start + width]
                scores = _scores(chosen, vectors[start : start + width], tile_bias, check)
                scores = scores[:, first - start : end_of_tile - start]
                own = scores.gather(1, own_ids[:, None]) if own is None else own
                seen_rows = place[rows]
                scores[seen_rows, columns] = float("-inf")
                hits = columns == (own_rows - first)[seen_rows]
                blocked.index_add_(0, seen_rows, (hits if is_here is None else hits & is_here[seen_rows]).int())
                _mark_ahead(scores, own, own_rows - first, is_here, cuts[tile], cuts[tile + 1])
                ahead += scores.sum(dim=1).long()  # a float32 sum of at most 2^24 ones is exact
            assert own is not None
            if part is not None:
                ahead, blocked = part.sum(ahead), part.sum(blocked)
            unreachable = torch.isneginf(own.squeeze(1)) | (blocked > 0)
            ranks[begin:end] = torch.where(unreachable, num_items + 1, ahead + 1)[place]
    return ranks


def _mark_ahead(scores: Tensor, own: Tensor, columns: Tensor, is_here: Tensor | None, low: int, high: int) -> None:
    """Overwrite a tile of scores ``[u, t]`` with 1 if the item ranks above the user's target, else 0.

    ``own`` are the targets' scores ``[u, 1]`` and ``columns`` their columns ``[u]``, ascending; where ``is_here`` is
    false the column is that of the first item after the target. The targets of users
    before ``low`` lie before the tile, so only a higher score ranks above; those of users from ``high`` on lie after
    it, so an equal score ranks above too. Inside the tile, an equal score ranks above in the columns before the
    target's: it is above the next smaller number. No target ranks above itself: its score becomes ``own``, because on
    some CPUs a score's rounding depends on its column.
    """
    scores[:low].gt_(own[:low])
    scores[high:].ge_(own[high:])
    middle, own, columns = scores[low:high], own[low:high], columns[low:high, None]
    before = torch.arange(scores.shape[1], device=scores.device) < columns  # [m, t]
    smaller = torch.nextafter(own, torch.full_like(own, float("-inf")))
    itself = own if is_here is None else torch.where(is_here[low:high, None], own, middle.gather(1, columns))
    middle.scatter_(1, columns, itself)
    middle.gt_(torch.where(before, smaller, own))


def _filled(values: Tensor, rows: int) -> Tensor:
    """At least ``rows`` rows: the first one is repeated at the end."""
    missing = rows - values.shape[0]
    return values if missing <= 0 else torch.cat([values, values[:1].expand(missing, *values.shape[1:])])


def _scores(queries: Tensor, items: Tensor, bias: Tensor | None, check: bool) -> Tensor:
    """`tile_scores`, for one user as for several: the product of a matrix and a vector rounds otherwise."""
    return tile_scores(_filled(queries, 2), items, bias, check)[: queries.shape[0]]


def _own_scores(
    queries: Tensor, items: Tensor, targets: Tensor, bias: Tensor | None, width: int, check: bool
) -> Tensor:
    """Compute the scores of the users' own targets ``[u, 1]``, by products of the same shape as for all items.

    A row-wise dot product sums in another order. Items equal to the target could then rank above or below it by chance,
    and a collapsed model could seem perfect.
    """
    own = torch.empty(queries.shape[0], 1, device=queries.device)
    for start in range(0, queries.shape[0], width):
        chosen = targets[start : start + width]
        own_bias = None if bias is None else _filled(bias[chosen], width)
        scores = _scores(queries, _filled(items[chosen], width), own_bias, check)  # [u, width]
        users = torch.arange(start, start + chosen.numel(), device=queries.device)
        own[users, 0] = scores[users, users - start]
    return own


def rank_metrics(ranks: Tensor, ks: Sequence[int], *, user_ids: Tensor | None = None) -> dict[str, float]:
    """Compute NDCG, HitRate and MRR at each k from the ranks of single targets.

    With one relevant item the ideal DCG is 1, so NDCG@k is the mean of ``1 / log2(rank + 1)`` over ranks up to k. The
    ranks are ``[U]`` integers from 1, as ``target_ranks`` returns them; one above k is a miss. With ``[U]`` user_ids
    (integers from 0), a user's value is the mean over the user's ranks, as in ``rec_eval.Evaluation``.

    Returns:
        ``{"ndcg@10": ..., "hitrate@10": ..., "mrr@10": ...}`` for each k.

    Raises:
        ValueError: there are no ranks, or a k is below 1.
    """
    if ranks.numel() == 0:
        raise ValueError("ranks is empty; allowed: at least one rank")
    if min(ks, default=1) < 1:
        raise ValueError(f"k must be at least 1, got {min(ks)}")
    values = ranks.double()
    weights = None
    if user_ids is not None:
        users = user_ids.to(ranks.device)
        counts = torch.bincount(users).double()
        weights = 1.0 / (torch.count_nonzero(counts) * counts[users])
    hits = values <= torch.tensor(list(ks), device=ranks.device)[:, None]  # [K, U]
    gains = {"ndcg": 1.0 / torch.log2(values + 1.0), "hitrate": torch.ones_like(values), "mrr": 1.0 / values}
    means = {}
    for name, gain in gains.items():
        found = torch.where(hits, gain, 0.0)  # [K, U]
        means[name] = found.mean(dim=1) if weights is None else found @ weights
    # Read at once: each read would wait for the device.
    rows = torch.stack(list(means.values()), dim=1).tolist()  # [K, 3]
    return {f"{name}@{k}": mean for k, row in zip(ks, rows, strict=True) for name, mean in zip(gains, row, strict=True)}
