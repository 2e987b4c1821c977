"""Ranks for histories and items given as dense ids: what `cutrec.Recommender` and the server share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from cutrec.checksums import checksum
from cutrec.paths import model_file
from cutrec.recommending import frames
from cutrec.recommending.asked import Asked
from cutrec.recommending.frames import Index
from cutrec.recommending.lists import Excluded, Lists, fill_by_popularity, rank, read_counts
from cutrec.workflow.ranking import scoring_catalogue
from rec_data.arrays import Int32s, Int64s, Mask
from rec_eval import Catalogue, top_k
from rec_models.encoders import Encoder

if TYPE_CHECKING:
    from cutrec.recommending.item_index import ItemIndex


class Ranker:
    """A network and the ids of its items.

    Args:
        encoder: in eval mode.
        items: the ids.
        folder: of the model; its ``items.parquet`` has the counts that are the popularity.
        batch_users: users that are ranked at a time.
        item_type: the Arrow type of the ids in a frame; None: as in ``items.parquet``.
    """

    def __init__(
        self, encoder: Encoder, items: Index, folder: Path, *, batch_users: int, item_type: str | None = None
    ) -> None:
        self.encoder, self.items, self.folder = encoder, items, folder
        self.index: ItemIndex | None = None
        """An approximate index, which then ranks in place of the whole catalogue."""
        self._batch_users, self._item_type = batch_users, item_type

    def recommend(
        self,
        asked: Asked,
        k: int,
        *,
        filter_seen: bool,
        excluded: Excluded | None = None,
        allowed: Mask | None = None,
        by_popularity: Int32s | None = None,
    ) -> Lists:
        """The k best items of each user; a list is shorter if fewer items are left.

        Args:
            asked: the users and their histories.
            k: items per user, at most V.
            filter_seen: leave a user's own items out.
            excluded: further items that are left out, of single users.
            allowed: ``[V]`` bool, the only items that may be recommended; None: all of them.
            by_popularity: the places of users without a history who get the most popular items, with their counts as
                scores; None: nobody.
        """
        if allowed is None or allowed.all():
            allowed, catalogue, index = None, self.catalogue, self.index
        else:
            catalogue, index = self.catalogue.among(torch.from_numpy(allowed)), None
        lists = rank(
            self.encoder,
            catalogue,
            asked,
            k,
            batch_users=self._batch_users,
            filter_seen=filter_seen,
            excluded=excluded,
            find=top_k if index is None else index.top_k,
        )
        if by_popularity is not None and len(by_popularity):
            may = np.ones(len(self.items.names), dtype=bool) if allowed is None else allowed
            fill_by_popularity(lists, self._counts, by_popularity, may, excluded)
        return lists

    def similar(self, places: Int32s, k: int) -> Lists:
        """The k nearest items ``[n, k]`` of items ``[n]``, themselves left out: by the cosine of their vectors."""
        known = torch.from_numpy(places).long()
        queries = self._directions.items[known.to(self._directions.items.device)]
        found = top_k(queries, self._directions, k, seen_offsets=torch.arange(len(known) + 1), seen_items=known)
        return Lists(found.ids.cpu().numpy(), found.scores.cpu().numpy())

    def original(self, ids: Int32s | Int64s) -> pa.Array:
        """The ids ``[n]`` of the log of items ``[n]``."""
        return frames.cast_like(self.items.names.take(pa.array(ids)), self._item_type)

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the model."""
        return checksum(model_file(self.folder))

    @cached_property
    def catalogue(self) -> Catalogue:
        """The item table, as it is ranked."""
        return scoring_catalogue(self.encoder, int8=True)

    @cached_property
    def _directions(self) -> Catalogue:
        """The item table ``[V, D]`` with rows of length 1."""
        return Catalogue(functional.normalize(self.encoder.item_table.detach().float(), dim=1), int8=True)

    @cached_property
    def _counts(self) -> Int64s:
        return read_counts(self.folder / "items.parquet")
