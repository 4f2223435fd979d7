import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from tunegate.gate import stats
from tunegate.gate.clusters import moments


def clustered_gaps(seed=0, clusters=40, size=5):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(clusters), size)
    return rng.normal(0.1, 1, clusters)[index] + rng.normal(0, 0.5, clusters * size), index


def pairs(both=0, gains=0, losses=0, neither=0):
    candidate = np.array([1] * both + [1] * gains + [0] * losses + [0] * neither, float)
    versus = np.array([1] * both + [0] * gains + [1] * losses + [0] * neither, float)
    return candidate, versus, np.arange(len(candidate))


def test_clustered_standard_error_is_that_of_statsmodels():
    values, clusters = clustered_gaps()
    fit = sm.OLS(values, np.ones((len(values), 1))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    found = stats.difference(values, np.zeros_like(values), clusters)
    assert found.se == pytest.approx(fit.bse[0], rel=1e-12)
    assert found.interval() == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-9)
    assert stats.clustered_se(values, clusters) == found.se


def test_singleton_clusters_give_the_plain_standard_error():
    values = np.random.default_rng(1).normal(size=50)
    found = stats.difference(values, np.zeros(50), np.arange(50))
    assert found.se == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert found.p_above(0.0) == pytest.approx(scipy_stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    assert found.p_below(0.0) == pytest.approx(scipy_stats.ttest_1samp(values, 0, alternative="less").pvalue)


def test_dependent_items_widen_the_interval():
    values, clusters = clustered_gaps()
    alone = stats.difference(values, np.zeros_like(values), np.arange(len(values)))
    assert stats.difference(values, np.zeros_like(values), clusters).se > 1.5 * alone.se


def test_mcnemar_is_that_of_statsmodels():
    candidate, versus, _ = pairs(both=30, gains=14, losses=4, neither=52)
    assert stats.mcnemar_p(candidate, versus) == pytest.approx(mcnemar([[30, 4], [14, 52]], exact=True).pvalue)
    assert stats.mcnemar_p(*pairs(both=5, neither=5)[:2]) == 1.0
    assert stats.mcnemar_p(candidate + 0.5, versus) is None


def test_clopper_pearson_is_that_of_statsmodels():
    for successes, trials in ((0, 20), (7, 20), (20, 20)):
        expected = proportion_confint(successes, trials, alpha=0.1, method="beta")
        assert stats.clopper_pearson(successes, trials, 0.05) == pytest.approx(expected)


SIZES = 2 * [1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 9, 11, 14, 19, 2, 1, 1, 3, 5]


def unequal(icc: float, seed=3):
    rng, index = np.random.default_rng(seed), np.repeat(np.arange(len(SIZES)), SIZES)
    between, within = rng.normal(size=len(SIZES)), rng.normal(size=len(index))
    return math.sqrt(icc) * between[index] + math.sqrt(1 - icc) * within, index


def test_cr2_and_its_degrees_of_freedom_are_those_of_their_matrices():
    """Bell and McCaffrey 2002 for a regression on an intercept, item by item, and Satterthwaite under the working model."""
    values, index = unequal(0.5)
    found = moments(values, index)
    n, X = len(values), np.ones((len(values), 1))
    hat = X @ X.T / n
    residuals, meat, forms = (np.eye(n) - hat) @ values, 0.0, []
    for g in range(len(SIZES)):
        mine = index == g
        eigenvalues, vectors = np.linalg.eigh(np.eye(mine.sum()) - hat[np.ix_(mine, mine)])
        row = np.ones(mine.sum()) @ vectors @ np.diag(eigenvalues**-0.5) @ vectors.T @ (np.eye(n) - hat)[mine]
        meat += (row @ values) ** 2
        forms.append(row)
    assert found.se == pytest.approx(math.sqrt(meat) / n, rel=1e-12) and residuals.sum() == pytest.approx(0, abs=1e-9)
    rho = rho_by_analysis_of_variance(values, index)
    working = np.where(index[:, None] == index, rho, 0) + (1 - rho) * np.eye(n)
    form = np.array(forms)
    spread = form @ working @ form.T
    assert 0.2 < rho < 0.8
    assert found.effective_clusters - 1 == pytest.approx(np.trace(spread) ** 2 / (spread**2).sum(), rel=1e-9)


def rho_by_analysis_of_variance(values, index):
    groups = [values[index == g] for g in np.unique(index)]
    n, count = len(values), len(groups)
    between = sum(len(g) * (g.mean() - values.mean()) ** 2 for g in groups) / (count - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n - count)
    size = (n - sum(len(g) ** 2 for g in groups) / n) / (count - 1)
    return (between - within) / (between + (size - 1) * within)


def test_clusters_of_one_size_count_in_full_and_unequal_ones_do_not():
    values, index = clustered_gaps()
    assert moments(values, index).effective_clusters == pytest.approx(40)
    loose, tight = (moments(*unequal(icc)).effective_clusters for icc in (0.0, 0.4))
    assert 8 < tight < loose < len(SIZES)


def test_too_few_effective_clusters_are_refused_with_the_number_needed():
    index = np.repeat(np.arange(20), [40] + [1] * 19)
    with pytest.raises(stats.NoSpread, match=r"59 items in 20 clusters, the largest of 40, count for [2-4]\.\d clusters of equal size"):
        stats.mean(np.random.default_rng(0).normal(size=59), index)
    with pytest.raises(stats.NoSpread, match="7 items in 7 clusters.* too few .*; 8 are needed, which about 8 clusters like these"):
        stats.mean(np.arange(7.0), np.arange(7))


def test_a_cluster_of_equal_answers_may_be_worth_one_item():
    index = np.repeat(np.arange(60), [1] * 40 + [4] * 20)
    found = stats.mean(np.ones(120), index)
    worth = 120**2 / (40 + 20 * 16)
    assert found.bounds(0.05)[0] == pytest.approx(0.05 ** (1 / worth))


def test_no_failures_give_the_rule_of_three():
    found = stats.mean(np.ones(200), np.arange(200))
    low, high = found.bounds(0.05)
    assert low == pytest.approx(0.05 ** (1 / 200))
    assert 1 - low == pytest.approx(3 / 200, rel=0.01)
    assert high == 1.0


def test_a_proportion_in_clusters_is_bounded_more_carefully():
    scores = np.repeat([1.0] * 45 + [0.0] * 5, 4)
    alone = stats.mean(scores, np.arange(200)).bounds(0.05)[0]
    clustered = stats.mean(scores, np.repeat(np.arange(50), 4)).bounds(0.05)[0]
    assert clustered < alone
    assert clustered == pytest.approx(stats.clopper_pearson(45, 50, 0.05)[0], abs=0.01)


def test_all_right_in_clusters_counts_clusters_not_items():
    found = stats.mean(np.ones(200), np.repeat(np.arange(50), 4))
    assert found.bounds(0.05)[0] == pytest.approx(0.05 ** (1 / 50))


@pytest.mark.parametrize("counts", [{"both": 100}, {"neither": 100}, {"gains": 100}, {"losses": 100}, {"both": 60, "neither": 40}])
def test_no_variance_never_means_no_width(counts):
    candidate, versus, clusters = pairs(**counts)
    found = stats.difference(candidate, versus, clusters)
    low, high = found.interval()
    assert found.se == 0
    assert high - low > 0.03
    assert low <= found.value <= high
    assert found.mde(0.05, 0.8) > 0.02


def test_a_difference_that_cancels_inside_clusters_keeps_a_width():
    candidate, versus = np.array([1.0, 0.0] * 50), np.array([0.0, 1.0] * 50)
    found = stats.difference(candidate, versus, np.repeat(np.arange(50), 2))
    low, high = found.interval()
    assert found.se == 0 and low < -0.1 and high > 0.1


def test_few_discordant_pairs_are_bounded_exactly():
    candidate, versus, clusters = pairs(both=150, losses=1, neither=49)
    found = stats.difference(candidate, versus, clusters)
    by_t = found.value - scipy_stats.t.ppf(0.95, 199) * found.se
    assert found.bounds(0.05)[0] < by_t
    assert found.p_above(-0.02) > scipy_stats.t.sf((found.value + 0.02) / found.se, 199)


def test_p_and_bound_agree():
    for counts in ({"both": 150, "losses": 2, "neither": 48}, {"both": 80, "gains": 40, "losses": 20, "neither": 60}):
        found = stats.difference(*pairs(**counts))
        threshold = found.bounds(0.05)[0]
        assert found.p_above(threshold) == pytest.approx(0.05, abs=1e-6)
        assert found.p_below(found.bounds(0.05)[1]) == pytest.approx(0.05, abs=1e-6)


def test_equal_continuous_differences_are_refused():
    values = np.linspace(1, 2, 30)
    with pytest.raises(stats.NoSpread, match="no spread"):
        stats.difference(values + 0.1, values, np.arange(30))
    with pytest.raises(stats.NoSpread):
        stats.difference(values, values, np.arange(30))


def test_one_cluster_is_refused():
    with pytest.raises(stats.NoSpread, match="30 items in 1 cluster"):
        stats.difference(np.linspace(0, 1, 30), np.zeros(30), np.zeros(30))


def test_a_ratio_is_bounded():
    rng = np.random.default_rng(2)
    versus = rng.gamma(5, 20, 400)
    candidate = versus * rng.normal(0.8, 0.05, 400)
    found = stats.ratio(candidate, versus, np.arange(400))
    resampled = [candidate[i].sum() / versus[i].sum() for i in (rng.integers(0, 400, 400) for _ in range(2000))]
    assert found.value == pytest.approx(candidate.sum() / versus.sum())
    assert found.se == pytest.approx(np.std(resampled), rel=0.1)
    with pytest.raises(stats.NoSpread, match="no ratio"):
        stats.ratio(candidate, np.zeros(400), np.arange(400))


def test_a_ratio_is_possible_where_the_difference_may_be_zero():
    rng = np.random.default_rng(4)
    versus, index = rng.gamma(2, 20, 100), np.arange(100)
    found = stats.ratio(versus * rng.normal(0.9, 0.3, 100), versus, index)
    low, high = found.bounds(0.05)
    assert low < found.value < high
    assert found.p_above(low) == pytest.approx(0.05) and found.p_below(high) == pytest.approx(0.05)
    # Fieller 1954: at its bound r, the t test of the mean of top - r * bottom is just significant
    top = versus * rng.normal(0.9, 0.3, 100)
    again = stats.ratio(top, versus, index)
    test = scipy_stats.ttest_1samp(top - again.bounds(0.05)[1] * versus, 0, alternative="less")
    assert test.pvalue == pytest.approx(0.05, abs=1e-9)


def test_a_denominator_near_zero_bounds_no_ratio():
    versus = np.random.default_rng(6).normal(0.1, 1, 50)
    versus += 0.05 - versus.mean()
    with pytest.raises(stats.NoSpread, match="too uncertain to divide by"):
        stats.ratio(versus + np.linspace(0, 1, 50), versus, np.arange(50)).bounds(0.05)


def test_mde_is_the_published_one():
    # 500 pairs of which 20 % disagree evenly: 4.9 to 5.0 points at one-sided 0.05 and power 0.8
    found = stats.difference(*pairs(both=200, gains=50, losses=50, neither=200))
    assert found.mde(0.05, 0.8) == pytest.approx(0.0498, abs=0.0005)
    assert stats.required_items(0.0498, math.sqrt(0.2), 0.05, 0.8) == pytest.approx(500, rel=0.01)
    # Miller 2024: variance 1/9, 3 points, 0.05 two-sided, power 0.8
    assert stats.required_items(0.03, 1 / 3, 0.025, 0.8) == 969


def test_required_n_needs_a_distance():
    found = stats.difference(*pairs(both=200, gains=50, losses=50, neither=200))
    assert found.required_n(0.0498 / 2, 0.05, 0.8) == pytest.approx(2000, rel=0.01)
    assert found.required_n(0.0, 0.05, 0.8) is None


def test_without_effect_one_in_twenty_passes():
    rng, passed = np.random.default_rng(5), 0
    for _ in range(400):
        better = rng.random(200) < 0.1
        worse = (rng.random(200) < 0.1 / 0.9) & ~better
        both = (rng.random(200) < 0.5).astype(float)
        candidate = np.where(better, 1.0, np.where(worse, 0.0, both))
        versus = np.where(better, 0.0, np.where(worse, 1.0, both))
        passed += stats.difference(candidate, versus, np.arange(200)).bounds(0.05)[0] > 0
    assert 0.025 < passed / 400 < 0.08


def test_no_interval_of_a_share_goes_beyond_what_a_share_can_be():
    right = np.ones(60)
    right[:2] = 0.0
    clusters = np.arange(60) // 2  # the two failures hang together
    assert stats.mean(right, clusters).interval()[1] == 1.0
    assert stats.mean(1 - right, clusters).interval()[0] == 0.0
    low, high = stats.difference(right, np.zeros(60), clusters).interval()
    assert low < 58 / 60 and high == 1.0


def test_the_planned_minimum_is_that_of_the_t_test():
    for n in (10, 200):
        effect = stats.planned_mde(n, 0.5, 0.05, 0.8) / 0.5
        assert TTestPower().power(effect, n, 0.05, alternative="larger") == pytest.approx(0.8, abs=1e-6)
    assert stats.planned_mde(500, math.sqrt(0.2), 0.05, 0.8) == pytest.approx(0.0498, abs=0.0002)
    assert stats.planned_mde(500, 1.0, 0.05, 0.8, clusters=100, icc=1.0) == pytest.approx(stats.planned_mde(100, 1.0, 0.05, 0.8))
    assert stats.planned_mde(500, 1.0, 0.05, 0.8, clusters=100, icc=0.3) > stats.planned_mde(500, 1.0, 0.05, 0.8)


def test_holm_is_the_published_step_down():
    # Holm 1979: the smallest of m by m, the next by m - 1, never falling; given back in the order they came in
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0] and stats.holm([]) == []
