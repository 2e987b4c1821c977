"""What `from rec_eval import ...` finds; imported, with torch, at the first such import."""

# mypy: implicit-reexport
# ruff: noqa: F401
from rec_eval.errors import DamagedError
from rec_eval.metrics.beyond_accuracy import Baseline, LogCounts, coverage
from rec_eval.metrics.comparison import Comparison, compare
from rec_eval.metrics.evaluate import Evaluation, Row, evaluate, first_lists, join_evaluations
from rec_eval.metrics.intervals import Interval, IntervalRow, intervals, mean_interval
from rec_eval.metrics.io import read_evaluation, write_evaluation, write_rows
from rec_eval.metrics.seeds import SeedComparison, compare_seeds, student_quantile
from rec_eval.metrics.segments import (
    PopularityRow,
    SegmentRow,
    long_tail,
    metrics_by_segment,
    popularity_profile,
    segment_edges,
)
from rec_eval.metrics.shown import ShownItems
from rec_eval.ranking.parts import Part
from rec_eval.ranking.popularity import popularity_top_k
from rec_eval.ranking.scores import Catalogue
from rec_eval.ranking.sort_keys import TopK
from rec_eval.ranking.target_ranks import rank_metrics, target_ranks
from rec_eval.ranking.top_k import top_k
