"""Streaming top-k over large catalogues and the ranking metrics of recommender systems."""

from rec_eval.evaluation import Evaluation, evaluate
from rec_eval.popularity import popularity_top_k
from rec_eval.ranks import ndcg_at, rank_metrics, target_ranks
from rec_eval.reference import Reference
from rec_eval.topk import TopK, top_k

__all__ = [
    "Evaluation",
    "Reference",
    "TopK",
    "evaluate",
    "ndcg_at",
    "popularity_top_k",
    "rank_metrics",
    "target_ranks",
    "top_k",
]
