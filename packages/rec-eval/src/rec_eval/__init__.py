"""Streaming top-k over large catalogues and the ranking metrics of recommender systems."""

from rec_eval.bands import BandRow, band_edges, metrics_by_band
from rec_eval.bootstrap import Comparison, Interval, IntervalRow, compare, intervals, mean_interval
from rec_eval.evaluation import Evaluation, Row, evaluate
from rec_eval.keys import TopK
from rec_eval.long_tail import PopularityRow, long_tail, popularity_profile
from rec_eval.popularity import popularity_top_k
from rec_eval.ranks import rank_metrics, target_ranks
from rec_eval.reference import Reference
from rec_eval.scoring import Catalogue
from rec_eval.storage import read_evaluation, write_evaluation
from rec_eval.tables import write_rows
from rec_eval.topk import top_k

__all__ = [
    "BandRow",
    "Catalogue",
    "Comparison",
    "Evaluation",
    "Interval",
    "IntervalRow",
    "PopularityRow",
    "Reference",
    "Row",
    "TopK",
    "band_edges",
    "compare",
    "evaluate",
    "intervals",
    "long_tail",
    "mean_interval",
    "metrics_by_band",
    "popularity_profile",
    "popularity_top_k",
    "rank_metrics",
    "read_evaluation",
    "target_ranks",
    "top_k",
    "write_evaluation",
    "write_rows",
]
