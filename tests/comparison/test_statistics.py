"""Statistics over seeds: against rliable and scipy, by brute force, and by what has to hold of any scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import library, metrics

from upright.comparison.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
    wilson_interval,
)

score = st.floats(-1e3, 1e3, allow_subnormal=False)
scores = st.lists(score, min_size=1, max_size=30)
STATISTICS = [interquartile_mean, np.mean, np.median, np.min]


def tables(seed: int, tasks: int = 3, seeds: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tasks, seeds)).round(1)  # rounded, so that there are ties


# --- the interquartile mean ---


def test_interquartile_means_by_hand() -> None:
    assert interquartile_mean([7]) == 7
    assert interquartile_mean([1, 2, 6]) == 3
    assert interquartile_mean([100, 2, 4, -9]) == 3
    assert interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 8]]) == 4.5
    assert interquartile_mean([[0, 1, 2], [3, 4, 5, 99, 7]]) == 3.5  # the tasks need not have the same number of seeds
    assert type(interquartile_mean(np.arange(8))) is float
    np.testing.assert_array_equal(interquartile_mean([[1, 2, 3, 10], [5, 5, 5, 5]], axis=1), [2.5, 5])


@given(scores)
def test_it_is_the_trimmed_mean_of_scipy_and_rliable(values: list[float]) -> None:
    expected = pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-9)
    assert interquartile_mean(values) == expected
    assert metrics.aggregate_iqm(np.array(values)[:, None]) == expected
    assert interquartile_mean(np.array([values]).T, axis=0)[0] == expected


@given(scores, st.randoms(), st.floats(0.01, 100), score)
def test_it_lies_among_the_scores_and_follows_them(values: list[float], random, scale: float, shift: float) -> None:
    middle = interquartile_mean(values)
    assert min(values) - 1e-9 <= middle <= max(values) + 1e-9
    assert interquartile_mean(random.sample(values, len(values))) == middle
    assert interquartile_mean([scale * each + shift for each in values]) == pytest.approx(
        scale * middle + shift, abs=1e-6
    )


# --- the bootstrap ---


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_is_that_of_all_resamples(statistic) -> None:
    values = np.array([3.0, -1.0, 4.0, 10.0])
    every = [float(statistic(np.array(resample), axis=-1)) for resample in itertools.product(values, repeat=4)]
    low, high = bootstrap_interval(statistic, values, confidence=0.8, resamples=100_000)
    # A share of 0.1 of the exact distribution lies below the low end, within what 100,000 draws allow.
    for end, share in ((low, 0.1), (high, 0.9)):
        below, upto = np.mean([v < end - 1e-9 for v in every]), np.mean([v <= end + 1e-9 for v in every])
        assert below - 0.01 <= share <= upto + 0.01


@pytest.mark.parametrize("shape", [(1, 5), (1, 20), (4, 6)])
def test_the_interval_agrees_with_rliables(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(3).normal(size=shape)
    np.random.seed(0)  # noqa: NPY002 - what rliable draws from
    _, expected = library.get_interval_estimates(
        {"x": values.T}, lambda x: np.array([metrics.aggregate_iqm(x), np.mean(x)]), reps=3_000
    )
    for i, statistic in enumerate((interquartile_mean, np.mean)):
        found = bootstrap_interval(statistic, values)
        width = found[1] - found[0]
        np.testing.assert_allclose(found, expected["x"][:, i], atol=0.05 * width)


def test_each_task_is_resampled_by_itself() -> None:
    """Of tasks in which every seed scores the same, no resample differs; together in one task they would."""
    assert bootstrap_interval(np.mean, [[0, 0, 0], [9, 9, 9]]) == (4.5, 4.5)
    low, high = bootstrap_interval(np.mean, [0, 0, 0, 9, 9, 9])
    assert low < 2 and high > 7
    assert bootstrap_interval(interquartile_mean, [[1, 1], [1, 1, 1]]) == (1, 1)


@settings(max_examples=30)
@given(st.lists(score, min_size=2, max_size=12), st.randoms(), st.floats(0.1, 10), st.integers(0, 3))
def test_an_interval_lies_among_the_scores_and_follows_them(values, random, scale: float, which: int) -> None:
    statistic = STATISTICS[which]
    low, high = bootstrap_interval(statistic, values, resamples=500)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap_interval(statistic, random.sample(values, len(values)), resamples=500) == (low, high)
    moved = bootstrap_interval(statistic, [scale * each - 5 for each in values], resamples=500)
    assert moved == pytest.approx((scale * low - 5, scale * high - 5), abs=1e-6)
    narrow = bootstrap_interval(statistic, values, confidence=0.5, resamples=500)
    assert low <= narrow[0] <= narrow[1] <= high


def test_it_is_the_seeds_alone_and_leaves_numpys_generator() -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    values = tables(1)
    assert bootstrap_interval(np.mean, values, seed=1) == bootstrap_interval(np.mean, values, seed=1)
    assert bootstrap_interval(np.mean, values, seed=1) != bootstrap_interval(np.mean, values, seed=2)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# --- Wilson's interval ---


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilsons_interval_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    successes, trials = counts
    low, high = wilson_interval(successes, trials, confidence)
    if trials == 0:
        assert (low, high) == (0, 1)
        return
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson_interval(trials - successes, trials, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilsons_interval_solves_its_equation() -> None:
    """The ends are the shares p that are z standard errors, √(p(1 − p)/n), away from what was seen."""
    z = 1.959963984540054
    for end in wilson_interval(48, 50):
        assert abs(48 / 50 - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 50))
    assert wilson_interval(48, 50) == pytest.approx((0.8654, 0.9890), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1 and wilson_interval(0, 20)[0] == 0
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


# --- the probability of improvement ---


@given(scores, scores)
def test_the_probability_of_improvement_counts_pairs(x: list[float], y: list[float]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in x for b in y]
    found = probability_of_improvement(x, y)
    assert found == pytest.approx(sum(pairs) / len(pairs))
    assert probability_of_improvement(y, x) == pytest.approx(1 - found)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    low, high = improvement_interval(x, y, resamples=200)
    assert 0 <= low <= high <= 1 + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_probability_of_improvement_agrees_with_rliables(seed: int) -> None:
    x, y = tables(seed), tables(seed + 10, seeds=7) + 0.3
    np.random.seed(0)  # noqa: NPY002
    point, interval = library.get_interval_estimates(
        {"x": [x.T, y.T]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
    )
    assert probability_of_improvement(x, y) == pytest.approx(point["x"][0])
    np.testing.assert_allclose(improvement_interval(x, y), interval["x"][:, 0], atol=0.04)


def test_tasks_weigh_alike_and_have_to_be_the_same() -> None:
    assert probability_of_improvement([[1, 1, 1], [0]], [[0], [1, 1]]) == 0.5
    assert improvement_interval([[1, 1], [0]], [[0], [1]]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="zip"):
        probability_of_improvement([[1], [2]], [[1]])


# --- curves ---


@pytest.mark.parametrize("shape", [(1, 8), (3, 5)])
def test_performance_profiles_agree_with_rliables(shape: tuple[int, int]) -> None:
    values, thresholds = tables(0, *shape), np.linspace(-3, 3, 13).round(1)
    np.random.seed(0)  # noqa: NPY002
    expected, interval = library.create_performance_profile({"x": values.T}, thresholds)
    band = performance_profile(values, thresholds)
    np.testing.assert_allclose(band.value, expected["x"])
    np.testing.assert_allclose([band.low, band.high], interval["x"], atol=1.01 / values.size)  # a step of the share
    assert band.value[0] == 1 and band.value[-1] == 0 and (np.diff(band.value) <= 0).all()
    assert (band.low <= band.value).all() and (band.value <= band.high).all()


def test_the_curve_is_the_interquartile_mean_at_each_step() -> None:
    returns = np.random.default_rng(1).normal(size=(6, 4)).cumsum(axis=1)
    band = sample_efficiency(returns, confidence=0.9, resamples=300)
    for k in range(4):
        assert band.value[k] == interquartile_mean(returns[:, k])
        assert (band.low[k], band.high[k]) == bootstrap_interval(interquartile_mean, returns[:, k], 0.9, 300)
    wide = sample_efficiency(returns, confidence=0.99, resamples=300)
    assert (wide.low <= band.low).all() and (wide.high >= band.high).all()
    alone = sample_efficiency(returns[:1])
    np.testing.assert_array_equal([alone.value, alone.low, alone.high], [returns[0]] * 3)


# --- what is no scores ---


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []], [float("nan"), 1.0], [1.0, float("inf")], [[[1.0]]]])
def test_what_is_no_scores_is_refused(values) -> None:
    for function in (
        interquartile_mean,
        lambda scores: bootstrap_interval(np.mean, scores),
        lambda scores: probability_of_improvement(scores, [1.0]),
        lambda scores: performance_profile(scores, [0.0]),
    ):
        with pytest.raises(ValueError, match="there have to be scores|no finite number"):
            function(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_is_a_share(confidence: float) -> None:
    for interval in (
        lambda: bootstrap_interval(np.mean, [1, 2], confidence),
        lambda: wilson_interval(1, 2, confidence),
        lambda: improvement_interval([1], [2], confidence),
    ):
        with pytest.raises(ValueError, match=f"confidence is {confidence}"):
            interval()
