"""An approximate index of the item vectors, for catalogues that are too large to read for every request.

The index proposes items, and their float32 scores order them, so that scores and ties are those of the exact ranking.
What it can miss is measured when it is built: the recall of its lists against the exact ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cutrec.checksums import file_hash
from cutrec.errors import StageError
from cutrec.outputs import read_json
from rec_eval import Catalogue, TopK, top_k
from rec_eval.ranking.sort_keys import EMPTY, decode_keys, encode_keys

if TYPE_CHECKING:
    from usearch.index import Index

FILE, FACTS = "index.usearch", "index.json"
"""The graph, and what it was built of and measured."""
_MOST_HIDDEN = 512
"""Hidden items of a user for which more items are fetched; beyond it the exact ranking may have to do it."""


class ItemIndex:
    """An index that was built for a model.

    Args:
        graph: of usearch, with the inner product as similarity.
        facts: of `FACTS`.
    """

    def __init__(self, graph: Index, facts: dict[str, Any]) -> None:
        self._graph, self.facts = graph, facts

    @classmethod
    def load(cls, folder: Path, model: str) -> ItemIndex:
        """Open an index, memory-mapped.

        Args:
            folder: what `cutrec index` wrote.
            model: the SHA-256 of the model that it must have been built for.

        Raises:
            StageError: there is no index, it is damaged or of another model, or usearch is not installed.
        """
        for name in (FACTS, FILE):
            if not (folder / name).is_file():
                raise StageError(f"--index: found no {folder / name}, allowed: a folder written by cutrec index")
        facts = read_json(folder / FACTS)
        if facts.get("model") != model:
            found, allowed = str(facts.get("model"))[:12], model[:12]
            cure = "build it again (cutrec index)"
            raise StageError(f"{folder}: found an index of the model {found}, allowed: of {allowed}; {cure}")
        if facts.get("sha256") != file_hash(folder / FILE):
            raise StageError(f"{folder / FILE}: found another checksum than in {FACTS}; build it again (cutrec index)")
        graph = usearch().Index.restore(str(folder / FILE), view=True)
        graph.expansion_search = facts["expansion_search"]
        return cls(graph, facts)

    def top_k(
        self,
        queries: Tensor,
        items: Catalogue,
        k: int,
        *,
        seen_offsets: Tensor | None = None,
        seen_items: Tensor | None = None,
    ) -> TopK:
        """`rec_eval.top_k` of a catalogue on a CPU, from the items that the index proposes.

        Users who have too few of them left, because they have seen the others, are ranked exactly.
        """
        num_users, num_items = queries.shape[0], items.items.shape[0]
        offsets = np.zeros(num_users + 1, dtype=np.int64) if seen_offsets is None else seen_offsets.numpy()
        hidden = np.empty(0, dtype=np.int64) if seen_items is None else seen_items.numpy().astype(np.int64)
        most_hidden = int(np.diff(offsets).max(initial=0))
        fetched = min(num_items, 2 * k + min(most_hidden, _MOST_HIDDEN))
        ids = self._search(queries, fetched)  # [u, c]
        rows = np.repeat(np.arange(num_users), np.diff(offsets))
        pairs = ids + np.arange(num_users)[:, None] * num_items
        kept = torch.from_numpy((ids >= 0) & ~np.isin(pairs, hidden + rows * num_items))
        proposed = torch.from_numpy(ids).clamp_min(0)
        scores = (queries[:, None, :] * items.items[proposed]).sum(dim=2)  # [u, c]
        keys = torch.where(kept, encode_keys(scores, proposed), EMPTY)
        if fetched < k:
            keys = torch.nn.functional.pad(keys, (0, k - fetched), value=EMPTY)
        found = decode_keys(keys.topk(k, dim=1).values)
        short = (found.ids[:, -1] < 0).nonzero()[:, 0]
        for row in short.tolist():
            own = torch.from_numpy(hidden[offsets[row] : offsets[row + 1]])
            exact = top_k(queries[row : row + 1], items, k, seen_offsets=torch.tensor([0, len(own)]), seen_items=own)
            found.ids[row], found.scores[row] = exact.ids[0], exact.scores[0]
        return found

    def _search(self, queries: Tensor, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The nearest items ``[u, count]``, -1 in empty places."""
        matches = self._graph.search(queries.numpy(), count, threads=torch.get_num_threads())
        keys = np.atleast_2d(matches.keys).astype(np.int64)
        counts = np.asarray(getattr(matches, "counts", [keys.shape[1]]))  # one query gets no counts
        if keys.shape[1] < count:
            keys = np.pad(keys, ((0, 0), (0, count - keys.shape[1])), constant_values=-1)
        return np.where(np.arange(count) < counts[:, None], keys, -1)


def usearch() -> Any:
    """The module ``usearch.index``.

    Raises:
        StageError: it is not installed.
    """
    try:
        import usearch.index
    except ImportError:
        raise StageError("index: found no usearch, allowed: after pip install 'cutrec[ann]'") from None
    return usearch.index
