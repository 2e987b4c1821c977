"""Agreement with torchmetrics and trec_eval; METRICS.md of the package tells where they differ and why."""

import numpy as np
import pytest
import torch

from rec_eval import evaluate

USERS, ITEMS, WIDTH, KS = 60, 40, 20, (1, 5, 20)
FLOAT32 = WIDTH * np.finfo(np.float32).eps  # torchmetrics sums at most WIDTH terms of at most 1 in float32


@pytest.fixture(scope="module")
def run():
    """Lists without ties, one to eight relevant items a user: (lists, relevant sets, our evaluation)."""
    generator = np.random.default_rng(0)
    lists = np.argsort(generator.random((USERS, ITEMS)), axis=1)
    relevant = [np.unique(generator.integers(0, ITEMS, generator.integers(1, 9))) for _ in range(USERS)]
    offsets = np.cumsum([0, *map(len, relevant)])
    return lists, relevant, evaluate(lists[:, :WIDTH], (offsets, np.concatenate(relevant)), KS)


@pytest.fixture(scope="module")
def trec(run):
    """Per-user values of trec_eval by its name of the measure."""
    import pytrec_eval

    lists, relevant, _ = run
    judged = {f"{user:03d}": {str(item): 1 for item in items} for user, items in enumerate(relevant)}
    ranked = {
        f"{user:03d}": {str(item): float(-rank) for rank, item in enumerate(items[:WIDTH])}
        for user, items in enumerate(lists)
    }
    cuts = ",".join(map(str, KS))
    names = {f"{name}.{cuts}" for name in ("ndcg_cut", "recall", "success", "P", "map_cut")} | {"recip_rank"}
    values = pytrec_eval.RelevanceEvaluator(judged, names).evaluate(ranked)
    return {name: np.array([values[user][name] for user in sorted(values)]) for name in values["000"]}


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("ndcg", "ndcg_cut"), ("recall", "recall"), ("hitrate", "success"), ("precision", "P")]
)
def test_equal_to_trec_eval(run, trec, ours, theirs, k):
    np.testing.assert_allclose(run[2].per_user[f"{ours}@{k}"], trec[f"{theirs}_{k}"], atol=1e-9)


def test_reciprocal_rank_of_trec_eval_is_ours_at_the_length_of_the_list(run, trec):
    np.testing.assert_allclose(run[2].per_user[f"mrr@{WIDTH}"], trec["recip_rank"], atol=1e-9)
    assert np.abs(run[2].per_user["mrr@5"] - trec["recip_rank"]).max() > 0.05  # it is never cut at k


@pytest.mark.parametrize("k", KS)
def test_map_of_trec_eval_divides_by_all_relevant_items(run, trec, k):
    sizes = np.array([len(items) for items in run[1]])
    ours = run[2].per_user[f"map@{k}"]
    np.testing.assert_allclose(ours * np.minimum(k, sizes) / sizes, trec[f"map_cut_{k}"], atol=1e-9)


@pytest.fixture(scope="module")
def judged_lists(run):
    """What torchmetrics takes for each user: a score and a 0 or 1 for every item of the catalogue.

    Scores are positive: to most of its metrics a score of zero or below means that the item was not retrieved.
    """
    lists, relevant, _ = run
    scores = torch.empty(USERS, ITEMS)
    scores[torch.arange(USERS)[:, None], torch.from_numpy(lists)] = torch.arange(ITEMS, 0, -1).float()
    truth = torch.zeros(USERS, ITEMS, dtype=torch.int64)
    for user, items in enumerate(relevant):
        truth[user, items] = 1
    return scores, truth


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ndcg", "retrieval_normalized_dcg"),
        ("recall", "retrieval_recall"),
        ("hitrate", "retrieval_hit_rate"),
        ("precision", "retrieval_precision"),
        ("mrr", "retrieval_reciprocal_rank"),
    ],
)
def test_equal_to_torchmetrics(run, judged_lists, ours, theirs, k):
    from torchmetrics import functional

    metric = getattr(functional.retrieval, theirs)
    values = [float(metric(scores, truth, top_k=k)) for scores, truth in zip(*judged_lists, strict=True)]
    np.testing.assert_allclose(run[2].per_user[f"{ours}@{k}"], values, atol=FLOAT32)


@pytest.mark.parametrize("k", KS)
def test_map_of_torchmetrics_divides_by_the_hits(run, judged_lists, k):
    from torchmetrics.functional.retrieval import retrieval_average_precision

    values = [
        float(retrieval_average_precision(scores, truth, top_k=k)) for scores, truth in zip(*judged_lists, strict=True)
    ]
    sizes = np.array([len(items) for items in run[1]])
    hits = run[2].per_user[f"precision@{k}"] * k
    ours = run[2].per_user[f"map@{k}"] * np.minimum(k, sizes) / np.maximum(hits, 1)
    np.testing.assert_allclose(ours, values, atol=FLOAT32)


def test_a_user_without_relevant_items_is_zero_in_torchmetrics_and_nothing_here():
    from torchmetrics.retrieval import RetrievalNormalizedDCG

    theirs = RetrievalNormalizedDCG(top_k=1)(
        torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1, 0, 0, 0]), indexes=torch.tensor([0, 0, 1, 1])
    )
    ours = evaluate(np.array([[0], [0]]), (np.array([0, 1, 1]), np.array([0])), [1]).summary()["ndcg@1"]
    assert (float(theirs), ours) == (0.5, 1.0)
