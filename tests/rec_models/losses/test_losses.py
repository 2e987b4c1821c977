"""Every loss against a float64 definition written here token by token."""

import math

import pytest
import torch

import cce_kernels
from rec_models.config import LossSettings
from rec_models.losses import LOSSES, LossContext, build_loss
from rec_models.losses.paper import bce_sum, cce_neg_sum
from rec_models.losses.plain import loss_of_draws
from rec_models.losses.sampling import Draws, draw, sampler_of
from rec_models.losses.sce import loss_of_buckets

CONTEXT = LossContext(seed=5, step=3, row_offset=0)
V, M, D, N = 11, 7, 4, 5
COUNTS = torch.tensor([4, 1, 1, 7, 2, 3, 1, 1, 9, 2, 1])


def problem(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(M, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.tensor([3, 0, 8, 8, 10, 3, 1])
    return hidden, weight, targets


def settings_of(loss, **options):
    sizes = {"num_negatives": N, "sce_buckets": 3, "sce_bucket_size_x": 4, "sce_bucket_size_y": 5}
    return LossSettings.pick(loss, **(sizes | {"impl": "reference"} | options))


def gradients(loss, hidden, weight):
    return torch.autograd.grad(loss, (hidden, weight))


def assert_same(actual, expected, hidden, weight, tolerance=1e-5):
    """Loss and both gradients; the float32 that losses are summed in bounds the tolerance."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)
    pairs = zip(gradients(actual, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def mean_over_tokens(hidden, weight, targets, negatives, of_token):
    """The definition: of_token(s_t, scores of the negatives left, their ids, target) averaged."""
    losses = []
    for m in range(M):
        left = [int(j) for j in negatives[m] if int(j) != int(targets[m])]
        scores = [hidden[m] @ weight[j] for j in left]
        losses.append(of_token(hidden[m] @ weight[targets[m]], scores, left, int(targets[m])))
    return torch.stack(losses).mean()


def softmax_token(log_q=None):
    def of_token(positive, scores, ids, target):
        if not scores:
            return positive * 0
        corrected = []
        for score, j in zip(scores, ids, strict=True):
            if log_q is None:
                corrected.append(score + math.log((V - 1) / len(ids)))
            else:
                q, q_target = math.exp(log_q[j]), math.exp(log_q[target])
                corrected.append(score - math.log(len(ids) * q / (1 - q_target)))
        return torch.logsumexp(torch.stack([positive, *corrected]), 0) - positive

    return of_token


def bce_token(beta=1.0, scale=1.0):
    def of_token(positive, scores, ids, target):
        total = -beta * torch.log(torch.sigmoid(positive))
        for score in scores:
            total = total - torch.log(1 - torch.sigmoid(score))
        return total * scale

    return of_token


@pytest.mark.parametrize("loss", ["ce", "cce"])
def test_full_cross_entropy(loss):
    hidden, weight, targets = problem()
    scores = hidden @ weight.T
    expected = (torch.logsumexp(scores, 1) - scores[torch.arange(M), targets]).mean()
    actual = build_loss(settings_of(loss))(hidden, weight, targets, CONTEXT)
    assert_same(actual, expected, hidden, weight)


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
@pytest.mark.parametrize("loss", ["cce_neg", "bce", "bce_neg", "gbce"])
def test_sampled_losses_of_the_kernels(loss, sampling, sharing):
    hidden, weight, targets = problem()
    settings = settings_of(loss, sampling=sampling, sharing=sharing, tile_tokens=3)
    count = settings.num_negatives
    sampler = cce_kernels.Uniform() if sampling == "uniform" else cce_kernels.Popularity(COUNTS, alpha=1.0)
    tile = {"tile_tokens": 3} if sharing == "tile" else {}
    negatives = cce_kernels.draw_negatives(
        M, V, num_negatives=count, seed=5, step=3, sampler=sampler, sharing=sharing, **tile
    )
    log_q = (COUNTS / COUNTS.sum()).log().tolist() if sampling == "popularity" else None
    rate = count / (V - 1)
    of_token = {
        "cce_neg": softmax_token(log_q),
        "bce": bce_token(),
        "bce_neg": bce_token(),
        "gbce": bce_token(beta=rate * (0.75 * (1 - 1 / rate) + 1 / rate), scale=1 / (count + 1)),
    }[loss]
    expected = mean_over_tokens(hidden, weight, targets, negatives, of_token)
    actual = build_loss(settings, COUNTS)(hidden, weight, targets, CONTEXT)
    assert_same(actual, expected, hidden, weight)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_calibration_of_gbce_reaches_the_kernels(t):
    hidden, weight, targets = problem()
    settings = settings_of("gbce", gbce_t=t)
    negatives = cce_kernels.draw_negatives(M, V, num_negatives=N, seed=5, step=3)
    beta = 1 - t * (1 - N / (V - 1))
    expected = mean_over_tokens(hidden, weight, targets, negatives, bce_token(beta=beta, scale=1 / (N + 1)))
    assert_same(build_loss(settings)(hidden, weight, targets, CONTEXT), expected, hidden, weight)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("loss", ["cce_neg", "bce_neg"])
def test_the_power_of_popularity_reaches_the_kernels(loss, alpha):
    hidden, weight, targets = problem()
    settings = settings_of(loss, sampling="popularity", alpha=alpha)
    sampler = cce_kernels.Popularity(COUNTS, alpha=alpha)
    negatives = cce_kernels.draw_negatives(M, V, num_negatives=N, seed=5, step=3, sampler=sampler)
    powers = COUNTS.double() ** alpha
    of_token = softmax_token((powers / powers.sum()).log().tolist()) if loss == "cce_neg" else bce_token()
    expected = mean_over_tokens(hidden, weight, targets, negatives, of_token)
    assert_same(build_loss(settings, COUNTS)(hidden, weight, targets, CONTEXT), expected, hidden, weight)


@pytest.mark.parametrize("logq", [True, False])
def test_in_batch_sampling_reaches_the_kernels(logq):
    hidden, weight, targets = problem()
    expected = cce_kernels.sampled_linear_cross_entropy(
        hidden, weight, targets, num_negatives=N, seed=5, step=3, sampler=cce_kernels.InBatch(logq=logq)
    )
    actual = build_loss(settings_of("cce_neg", sampling="in_batch", logq=logq))(hidden, weight, targets, CONTEXT)
    assert_same(actual, expected, hidden, weight)


@pytest.mark.parametrize("logq", [True, False])
@pytest.mark.parametrize("loss", ["cce_neg", "bce_neg"])
def test_mixed_sampling_reaches_the_kernels(loss, logq):
    hidden, weight, targets = problem()
    logq = logq if loss == "cce_neg" else None
    others = {
        "mixed": (cce_kernels.Uniform(), {}),
        "mixed_popularity": (cce_kernels.Popularity(COUNTS, 0.5), {"alpha": 0.5}),
    }
    for sampling, (drawn, options) in others.items():
        settings = settings_of(loss, sampling=sampling, catalogue_share=0.25, logq=logq, **options)
        expected = cce_kernels.sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=N, seed=5, step=3,
            sampler=cce_kernels.Mixed(others=drawn, share=0.25, logq=logq),
            objective=cce_kernels.Softmax() if loss == "cce_neg" else cce_kernels.BCE(),
        )  # fmt: skip
        assert_same(build_loss(settings, COUNTS)(hidden, weight, targets, CONTEXT), expected, hidden, weight)


def share_of(sampling, targets):
    """The probabilities of the items, float64 [V], by the definition; a quarter of the mixed ones by popularity."""
    batch = torch.bincount(targets, minlength=V).double() / M
    popularity = COUNTS.double() / COUNTS.sum()
    return {
        "popularity": popularity, "in_batch": batch, "mixed": 0.75 * batch + 0.25 / V,
        "mixed_popularity": 0.75 * batch + 0.25 * popularity,
    }[sampling]  # fmt: skip


@pytest.mark.parametrize("sampling", ["mixed", "mixed_popularity"])
def test_mixed_draws_of_ce_neg_follow_the_mixture(sampling):
    settings = settings_of("ce_neg", sampling=sampling, catalogue_share=0.25, num_negatives=20_000, sharing="batch")
    targets = problem()[2]
    drawn = draw(settings, sampler_of(settings, COUNTS), targets, V, CONTEXT)
    q = share_of(sampling, targets)
    torch.testing.assert_close(drawn.log_q, q.log().float())
    deviation = (torch.bincount(drawn.ids[0], minlength=V) - 20_000 * q) / (20_000 * q * (1 - q)).sqrt()
    assert (deviation.pow(2) * (1 - q)).sum() < 29.6  # chi-square, 10 degrees of freedom, p = 0.001


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sampling", ["uniform", "popularity", "in_batch", "mixed", "mixed_popularity"])
@pytest.mark.parametrize("logq", [True, False])
def test_ce_neg(sampling, sharing, logq):
    hidden, weight, targets = problem()
    settings = settings_of("ce_neg", sampling=sampling, sharing=sharing, tile_tokens=3, logq=logq, catalogue_share=0.25)
    negatives = draw(settings, sampler_of(settings, COUNTS), targets, V, CONTEXT).for_tokens(M)
    log_q = share_of(sampling, targets).log().tolist() if logq and sampling != "uniform" else None
    expected = mean_over_tokens(hidden, weight, targets, negatives, softmax_token(log_q))
    actual = build_loss(settings, COUNTS)(hidden, weight, targets, CONTEXT)
    assert_same(actual, expected, hidden, weight)


def test_ce_neg_is_cce_neg_for_the_same_negatives():
    hidden, weight, targets = problem()
    negatives = cce_kernels.draw_negatives(M, V, num_negatives=N, seed=5, step=3)
    actual = build_loss(settings_of("cce_neg"))(hidden, weight, targets, CONTEXT)
    assert_same(actual, loss_of_draws(hidden, weight, targets, Draws(negatives, 1, None)), hidden, weight)


def test_ce_neg_where_every_negative_is_the_target():
    hidden, weight, targets = problem()
    loss = loss_of_draws(hidden, weight, targets, Draws(targets[:, None].repeat(1, N), 1, None))
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(loss, hidden, weight))


@pytest.mark.parametrize(("sharing", "groups"), [("none", M), ("tile", 3), ("batch", 1)])
def test_ce_neg_draws_one_set_a_group(sharing, groups):
    settings = settings_of("ce_neg", sharing=sharing, tile_tokens=3)
    draws = draw(settings, sampler_of(settings, None), problem()[2], V, CONTEXT)
    assert draws.ids.shape == (groups, N)
    assert draws.for_tokens(M).shape == (M, N)
    again = draw(settings, sampler_of(settings, None), problem()[2], V, CONTEXT)
    assert torch.equal(draws.ids, again.ids)
    other = draw(settings, sampler_of(settings, None), problem()[2], V, LossContext(5, 4))
    assert not torch.equal(draws.ids, other.ids)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_popularity_draws_of_ce_neg_follow_the_counts(alpha):
    settings = settings_of("ce_neg", sampling="popularity", alpha=alpha, num_negatives=20_000, sharing="batch")
    drawn = draw(settings, sampler_of(settings, COUNTS), problem()[2], V, CONTEXT)
    draws, q = drawn.ids[0], COUNTS.double() ** alpha / (COUNTS.double() ** alpha).sum()
    torch.testing.assert_close(drawn.log_q, q.log().float())
    deviation = (torch.bincount(draws, minlength=V) - 20_000 * q) / (20_000 * q * (1 - q)).sqrt()
    assert (deviation.pow(2) * (1 - q)).sum() < 29.6  # chi-square, 10 degrees of freedom, p = 0.001


def test_ce_neg_never_draws_an_item_without_a_count():
    settings = settings_of("ce_neg", sampling="popularity", alpha=0.0, num_negatives=1000)
    drawn = draw(settings, sampler_of(settings, torch.tensor([0, *[2] * (V - 2), 0])), problem()[2], V, CONTEXT).ids
    assert set(drawn.flatten().tolist()) == set(range(1, V - 1))


def test_popularity_without_counts_is_refused():
    for loss in ("ce_neg", "cce_neg"):
        with pytest.raises(ValueError, match="item_counts: found None"):
            build_loss(settings_of(loss, sampling="popularity"))(*problem(), CONTEXT)


@pytest.mark.parametrize("loss", ["ce_neg", "cce_neg", "bce"])
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("counts", [[0] * V, [-1, *[2] * (V - 1)]])
def test_counts_that_nothing_can_be_drawn_by_are_refused(loss, faithful, counts):
    settings = settings_of(loss, sampling="popularity", paper_faithful=faithful)
    with pytest.raises(ValueError, match=r"item_counts: found .*, allowed: counts from 0, one of them above 0"):
        build_loss(settings, torch.tensor(counts))


def test_sce_for_given_buckets():
    hidden, weight, targets = problem()
    tokens = torch.tensor([[0, 1, 2], [2, 3, 4]])  # token 2 in both buckets, tokens 5 and 6 in none
    items = torch.tensor([[3, 1, 8, 2], [8, 0, 5, 9]])  # with the targets of tokens 0 and 2, and of 2 and 3
    per_token = {m: [] for m in range(M)}
    for bucket in range(2):
        for m in tokens[bucket].tolist():
            positive = hidden[m] @ weight[targets[m]]
            wrong = [hidden[m] @ weight[j] for j in items[bucket].tolist() if j != int(targets[m])]
            per_token[m].append(torch.logsumexp(torch.stack([positive, *wrong]), 0) - positive)
    expected = torch.stack([torch.stack(losses).max() for losses in per_token.values() if losses]).mean()
    assert_same(loss_of_buckets(hidden, weight, targets, tokens, items), expected, hidden, weight)


def test_sce_over_whole_batch_and_catalogue_is_cross_entropy():
    hidden, weight, targets = problem()
    sizes = {"sce_buckets": 2, "sce_bucket_size_x": 100, "sce_bucket_size_y": 100}  # clamped to M and V
    for mix in (True, False):
        actual = build_loss(settings_of("sce", sce_mix_x=mix, **sizes))(hidden, weight, targets, CONTEXT)
        assert_same(actual, torch.nn.functional.cross_entropy(hidden @ weight.T, targets), hidden, weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_token_of_sce_that_is_no_number_reaches_the_loss(bad):
    hidden, weight, targets = problem()
    tokens, items = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 1, 8, 2]])
    with torch.no_grad():
        hidden[1] = bad
    assert not loss_of_buckets(hidden, weight, targets, tokens, items).isfinite()
    with torch.no_grad():
        hidden[1], hidden[5] = 0.0, bad  # in no bucket
    assert loss_of_buckets(hidden, weight, targets, tokens, items).isfinite()


def test_sce_takes_the_nearest_tokens_and_items():
    hidden = torch.eye(3, 4, dtype=torch.float64).requires_grad_()
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    loss = build_loss(settings_of("sce", sce_buckets=1, sce_bucket_size_x=1, sce_bucket_size_y=1, sce_mix_x=True))
    value = loss(hidden, weight, torch.tensor([0, 1, 2]), CONTEXT)
    # The one centre is a mixture of unit vectors: its nearest token is the unit vector of its largest share, its
    # nearest item the same one, which is that token's target: nothing is left to tell apart.
    assert value.item() == 0


def test_the_papers_cce_neg_keeps_a_hit_as_a_constant():
    hidden, weight, targets = problem()
    ids = torch.tensor([[0, 3, 2]] * M)  # a hit for tokens 0, 1 and 5
    losses = []
    for m in range(M):
        correction = math.log(V - 1) - math.log(3 + 1)
        scores = [hidden[m] @ weight[j] if j != int(targets[m]) else hidden[m].sum() * 0 for j in ids[m].tolist()]
        positive = hidden[m] @ weight[targets[m]]
        losses.append(torch.logsumexp(torch.stack([positive, *(s + correction for s in scores)]), 0) - positive)
    assert_same(cce_neg_sum(hidden, weight, targets, ids), torch.stack(losses).sum(), hidden, weight)


def test_the_papers_bce_keeps_hits():
    hidden, weight, targets = problem()
    ids = torch.tensor([[0, 3, 2]] * M)
    total = 0
    for m in range(M):
        total = total - torch.log(torch.sigmoid(hidden[m] @ weight[targets[m]]) + 1e-6)
        for j in ids[m].tolist():
            total = total - torch.log(1 - torch.sigmoid(hidden[m] @ weight[j]) + 1e-6)
    assert_same(bce_sum(hidden, weight, targets, ids), total, hidden, weight, tolerance=1e-4)


@pytest.mark.parametrize("loss", ["cce_neg", "bce", "bce_neg"])
def test_faithful_losses_are_chosen_by_the_settings(loss):
    hidden, weight, targets = problem()
    settings = settings_of(loss, paper_faithful=True)
    ids = draw(settings, sampler_of(settings, None), targets, V, CONTEXT).for_tokens(M)
    of_sum = cce_neg_sum if loss == "cce_neg" else bce_sum
    actual = build_loss(settings)(hidden, weight, targets, CONTEXT)
    assert_same(actual, of_sum(hidden, weight, targets, ids) / M, hidden, weight)


@pytest.mark.parametrize("paper_faithful", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tokens_give_zero_and_zero_gradients(loss, paper_faithful):
    _, weight, _ = problem()
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    settings = settings_of(loss, paper_faithful=paper_faithful)
    value = build_loss(settings)(hidden, weight, torch.zeros(0, dtype=torch.int64), CONTEXT)
    assert value.item() == 0
    assert not gradients(value, hidden, weight)[1].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_fp32_gradients_stay_close_to_float64(loss):
    exact_hidden, exact_weight, targets = problem()
    hidden, weight, _ = problem(torch.float32)
    function = build_loss(settings_of(loss))
    exact = gradients(function(exact_hidden, exact_weight, targets, CONTEXT), exact_hidden, exact_weight)
    ours = gradients(function(hidden, weight, targets, CONTEXT), hidden, weight)
    for single, double in zip(ours, exact, strict=True):
        assert (single - double).norm() <= 3e-6 * double.norm()
