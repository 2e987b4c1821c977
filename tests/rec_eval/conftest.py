"""Slow definitions in plain Python that the tests compare with, as the fixture ``oracle``."""

import math
import os

import pytest
import torch

if not torch.cuda.is_available():
    # Without a GPU, kernels run in Triton's interpreter, which must be enabled before they are imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")


class Oracle:
    @staticmethod
    def accuracy(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
        """Every accuracy metric of one list, NaN without relevant items."""
        if not relevant:
            return dict.fromkeys(("ndcg", "recall", "hitrate", "precision", "map", "mrr"), math.nan)
        dcg = 0.0
        found = 0
        precisions = 0.0
        first = 0
        for rank, item in enumerate(ranked[:k], start=1):
            if item in relevant:
                found += 1
                dcg += 1 / math.log2(rank + 1)
                precisions += found / rank
                first = first or rank
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
        return {
            "ndcg": dcg / ideal,
            "recall": found / len(relevant),
            "hitrate": float(found > 0),
            "precision": found / k,
            "map": precisions / min(k, len(relevant)),
            "mrr": 1 / first if first else 0.0,
        }

    @staticmethod
    def coverage(lists: list[list[int]], log: list[list[int]], k: int) -> float:
        known = {item for history in log for item in history}
        return len({item for ranked in lists for item in ranked[:k]} & known) / len(known)

    @staticmethod
    def surprisal(ranked: list[int], log: list[list[int]], k: int) -> float:
        users = sum(1 for history in log if history)
        total = 0.0
        for item in ranked[:k]:
            if item < 0:
                continue
            count = sum(1 for history in log if item in history)
            total += math.log2(users / count) / math.log2(users) if count else 1.0
        return total / k

    @staticmethod
    def ranking(scores: list[float], seen: set[int]) -> list[int]:
        """All unseen items, best first, equal scores by lower id; -inf excludes an item."""
        candidates = [item for item, score in enumerate(scores) if item not in seen and score > -math.inf]
        return sorted(candidates, key=lambda item: (-scores[item], item))


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    return Oracle
