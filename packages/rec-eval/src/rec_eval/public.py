"""What `from rec_eval import ...` finds; imported, with torch, at the first such import."""

from rec_eval.metrics.beyond_accuracy import Reference
from rec_eval.metrics.bootstrap import Comparison, Interval, IntervalRow, compare, intervals, mean_interval
from rec_eval.metrics.evaluate import Evaluation, Row, evaluate, write_rows
from rec_eval.metrics.io import read_evaluation, write_evaluation
from rec_eval.metrics.segments import BandRow, PopularityRow, band_edges, long_tail, metrics_by_band, popularity_profile
from rec_eval.ranking.popularity import popularity_top_k
from rec_eval.ranking.scores import Catalogue
from rec_eval.ranking.sort_keys import TopK
from rec_eval.ranking.target_ranks import rank_metrics, target_ranks
from rec_eval.ranking.top_k import top_k

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
