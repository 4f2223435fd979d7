"""Quantiles and macro-F1: against other implementations, and what cannot be bounded."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score

from tunegate.gate.clusters import NoSpread
from tunegate.gate.quantiles import compare_quantiles, quantile, quantile_of
from tunegate.gate.resample import compare_macro_f1, macro_f1, macro_f1_of

SINGLE = np.arange(400)
PINNED = (0.770560167753, 0.874264466496)


def latencies(seed=0, n=400, factor=1.0):
    rng = np.random.default_rng(seed)
    shared = rng.lognormal(0, 0.4, n)
    return factor * shared * rng.lognormal(0, 0.1, n), shared * rng.lognormal(0, 0.1, n)


def answers(seed=0, n=300, right=0.8):
    rng = np.random.default_rng(seed)
    labels = np.array(["off", "on", "set", "start"], dtype=object)
    expected = labels[rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])]
    told = [np.where(rng.random(n) < share, expected, labels[rng.integers(0, 4, n)]) for share in (right, right - 0.3)]
    return *told, expected


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_one_arms_quantile_is_bounded_as_scipy_bounds_it(percent):
    scores, _ = latencies()
    found = quantile(scores, SINGLE, percent)
    assert found.value == quantile_of(scores, percent) == np.quantile(scores, percent / 100, method="inverted_cdf")
    theirs = scipy_stats.quantile_test(scores, p=percent / 100)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.bounds(0.05)[0] <= found.value <= found.bounds(0.05)[1]
    for threshold in (np.nextafter(found.bounds(0.05)[1], 9), found.value * 0.99):  # no scores themselves
        expected = scipy_stats.quantile_test(scores, q=threshold, p=percent / 100, alternative="less").pvalue
        assert found.p_below(threshold) == pytest.approx(expected)
        above = scipy_stats.quantile_test(scores, q=threshold, p=percent / 100, alternative="greater").pvalue
        assert found.p_above(threshold) == pytest.approx(above)
    assert found.p_below(found.bounds(0.05)[1]) <= 0.05 < found.p_below(np.nextafter(found.bounds(0.05)[1], 0))


def test_clusters_widen_the_bounds_of_a_quantile():
    scores = np.repeat(np.random.default_rng(1).lognormal(0, 0.4, 80), 5) * np.random.default_rng(2).lognormal(0, 0.05, 400)
    alone, together = quantile(scores, SINGLE, 90), quantile(scores, SINGLE // 5, 90)
    assert together.interval()[0] < alone.interval()[0] < alone.interval()[1] < together.interval()[1]
    assert together.trials < 100 and together.mde(0.05, 0.8) > alone.mde(0.05, 0.8)


def test_a_ratio_of_quantiles_is_paired():
    ours, theirs = latencies(factor=0.8)
    paired = compare_quantiles(ours, theirs, SINGLE, 95, as_ratio=True)
    shuffled = compare_quantiles(np.random.default_rng(1).permutation(ours), theirs, SINGLE, 95, as_ratio=True)
    assert paired.value == pytest.approx(quantile_of(ours, 95) / quantile_of(theirs, 95))
    assert paired.se < shuffled.se and paired.bounds(0.05)[1] < 1
    gap = compare_quantiles(ours, theirs, SINGLE, 95, as_ratio=False)
    assert gap.value == pytest.approx(quantile_of(ours, 95) - quantile_of(theirs, 95)) and gap.bounds(0.05)[1] < 0


def test_a_resampled_p_agrees_with_its_bound():
    ours, theirs, expected = answers()
    for found in (
        compare_quantiles(*latencies(), SINGLE, 90, as_ratio=True),
        compare_macro_f1(ours, theirs, expected, np.arange(300)),
    ):
        low, high = found.bounds(0.05)
        assert found.p_above(np.nextafter(low, -np.inf)) <= 0.05 <= found.p_above(low) + 1e-3
        assert found.p_below(np.nextafter(high, np.inf)) <= 0.05 <= found.p_below(high) + 1e-3
        assert found.p_above(low) == pytest.approx(0.05, abs=2e-3)


def test_resampling_draws_the_same_every_time():
    first, again = (compare_quantiles(*latencies(), SINGLE, 95, as_ratio=True) for _ in range(2))
    assert first.interval() == again.interval()
    found = macro_f1(*answers()[::2], np.arange(300)).interval()
    # written down once: the stream of MT19937 and counts in whole numbers are the same everywhere
    assert found == pytest.approx(PINNED, rel=1e-9)


def test_the_bootstrap_interval_of_a_mean_like_statistic_is_that_of_t():
    """Macro-F1 of one label is a smooth function of a share, so its interval lies near the one that t gives the share."""
    rng = np.random.default_rng(0)
    expected = np.full(200, "on", dtype=object)
    told = np.where(rng.random(200) < 0.7, expected, "something else")
    low, high = macro_f1(told, expected, np.arange(200)).interval()
    share = float((told == expected).mean())
    reach = scipy_stats.t.ppf(0.975, 199) * np.sqrt(share * (1 - share) / 199)
    as_f1 = [2 * s / (1 + s) for s in (share - reach, share + reach)]
    assert (low, high) == pytest.approx(as_f1, abs=0.006)


def test_macro_f1_is_that_of_scikit_learn():
    ours, theirs, expected = answers()
    ours[:5] = "no label at all"
    labels = sorted(set(expected))
    assert macro_f1_of(ours, expected) == pytest.approx(f1_score(expected, ours, labels=labels, average="macro", zero_division=0))
    found = compare_macro_f1(ours, theirs, expected, np.arange(300))
    assert found.value == pytest.approx(macro_f1_of(ours, expected) - macro_f1_of(theirs, expected))
    assert found.bounds(0.05)[0] > 0


@pytest.mark.parametrize(
    "estimate, sentence",
    [
        (lambda: quantile(latencies(n=50)[0], np.arange(50), 99), "p99 is too extreme for 50 independent items; a bound of it needs 368"),
        (lambda: compare_quantiles(*latencies(n=50), np.arange(50), 95, True), "p95 is too extreme for 50 .* needs 72"),
        (lambda: quantile(latencies(n=400)[0], np.repeat(np.arange(5), 80), 50), "too few for any bound to hold"),
        (lambda: quantile((latencies()[0] > 1).astype(float), SINGLE, 95), "0 or 1, of which p95 says nothing; use the mean"),
        (lambda: compare_quantiles(np.round(latencies()[0]) + 1, np.round(latencies()[0]) + 1, SINGLE, 50, True), "give the same"),
    ],
)
def test_what_cannot_be_bounded_is_refused(estimate, sentence):
    with pytest.raises(NoSpread, match=sentence):
        estimate()


def test_a_bound_at_a_smaller_alpha_needs_more_items():
    found = quantile(latencies()[0], SINGLE, 99)
    with pytest.raises(NoSpread, match="p99 is too extreme for 400 independent items; a bound of it needs 459"):
        found.bounds(0.01)


def test_a_label_of_one_cluster_and_a_perfect_arm_are_refused():
    ours, _, expected = answers()
    rare = expected.copy()
    rare[0] = "once"
    with pytest.raises(NoSpread, match="the label 'once' is expected in one cluster only"):
        macro_f1(ours, rare, np.arange(300))
    with pytest.raises(NoSpread, match="give the same"):
        macro_f1(expected, expected, np.arange(300))
