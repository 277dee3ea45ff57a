"""Statistics of an experiment's seeds, with their uncertainty: Agarwal et al. 2021 (arXiv:2108.13264), Wilson 1927.

A score is what one run has reached, such as the mean return of its final policy. Scores are `[seeds]`, or the same of
each of several tasks: `[tasks, seeds]`, or a sequence of `[seeds]` of which each may have its own number. The
probability of improvement, and its interval, are the mean over the tasks; every other function takes the runs of all
tasks together, as the paper does. They raise ValueError where there are no scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 10_000  # of a single number: another seed then moves the ends by a hundredth of the interval's width
POINTWISE_RESAMPLES = 2_000  # of each point of a curve, as in Agarwal 2021, fig. 7

Scores = ArrayLike | Sequence[ArrayLike]


class Statistic(Protocol):
    """A function that reduces an axis to one number: `interquartile_mean`, `np.mean`, `np.median`, `np.min`."""

    def __call__(self, scores: Any, /, *, axis: int) -> Any:
        """The statistic along the axis, which is gone in the result."""


@dataclass(frozen=True)
class Estimate:
    """A number, and the ends of its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Estimate:
        """Return what `to_dict` was called on."""
        return cls(written["value"], *written["interval"])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "interval": [self.low, self.high]}


@dataclass(frozen=True)
class Band:
    """A statistic at `[K]` places, and the ends of its interval at each of them alone."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(scores: Scores, *, axis: int | None = None) -> Any:
    """The mean of the middle half: of n scores, the n // 4 lowest and as many of the highest are left out.

    This is scipy's `trim_mean(scores, 0.25)`, and `aggregate_iqm` of rliable, of all scores together: a float. With
    an axis, of the scores along that axis: an array without it.
    """
    table = _pooled(scores) if axis is None else np.moveaxis(np.asarray(scores, np.float64), axis, -1)
    count = table.shape[-1]
    middle = np.sort(table, axis=-1)[..., count // 4 : count - count // 4].mean(axis=-1)
    return float(middle) if axis is None else middle


def bootstrap_interval(
    statistic: Statistic, scores: Scores, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic of all scores, by the stratified bootstrap (Agarwal 2021, section 4.1).

    Each resample draws from every task as many seeds as it has, with replacement. The interval is the middle
    `confidence` of the statistic's values over the resamples. Neither the seeds' order nor NumPy's global generator
    matters.
    """
    random = np.random.default_rng(seed)
    tables = [each[random.integers(len(each), size=(resamples, len(each)))] for each in _tasks(scores)]
    return _middle(statistic(np.concatenate(tables, axis=1), axis=-1), confidence)


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The score interval of a share of successes p̂ = successes / trials (Wilson 1927).

        (p̂ + z²/2n ± z·√(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)

    of n trials, with z the normal quantile of (1 + confidence) / 2. Without trials it is from 0 to 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} trials cannot have succeeded")
    if trials == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf(_quantiles(confidence)[1]), successes / trials
    centre = share + z**2 / (2 * trials)
    reach = z * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    whole = 1 + z**2 / trials
    # At the ends the formula gives 0 and 1, but for rounding.
    low = 0.0 if successes == 0 else (centre - reach) / whole
    high = 1.0 if successes == trials else (centre + reach) / whole
    return low, high


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """The probability that a run of x scores above one of y on a task, ties one half (Agarwal 2021, section 4.3).

        P(X > Y) = mean over tasks of 1/(N·M)·Σᵢ Σⱼ S(xᵢ, yⱼ), where S = 1, ½ or 0 for xᵢ >, = or < yⱼ

    Both have the same tasks in the same order, of N and M seeds. That is the Mann-Whitney U statistic over N·M.
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def improvement_interval(
    x: Scores, y: Scores, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of `probability_of_improvement`, where x and y are resampled each by itself."""
    random = np.random.default_rng(seed)
    tasks = []
    for wins in _wins(x, y):
        # How often each seed is drawn suffices: U is bilinear in these counts.
        of_x, of_y = (random.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in wins.shape)
        tasks.append(((of_x @ wins) * of_y).sum(axis=1))
    return _middle(np.mean(tasks, axis=0), confidence)


def performance_profile(
    scores: Scores, thresholds: ArrayLike, confidence: float = CONFIDENCE, resamples: int = POINTWISE_RESAMPLES
) -> Band:
    """The share of runs that score above each threshold τ: the run-score distribution (Agarwal 2021, section 4.2).

        F̂(τ) = mean over all runs of 1[x > τ],    at thresholds [K]

    The band holds at each threshold alone.
    """
    tasks, places = _tasks(scores), np.asarray(thresholds, np.float64)
    return _pointwise(np.mean, [[each > place for each in tasks] for place in places], confidence, resamples)


def sample_efficiency(returns: ArrayLike, confidence: float = CONFIDENCE, resamples: int = POINTWISE_RESAMPLES) -> Band:
    """The interquartile mean over the seeds at each of K steps, of returns `[seeds, K]` (Agarwal 2021, fig. 7).

    The band holds at each step alone.
    """
    table = np.asarray(returns, np.float64)
    return _pointwise(interquartile_mean, list(table.T), confidence, resamples)


def _pointwise(statistic: Statistic, places: Sequence[Scores], confidence: float, resamples: int) -> Band:
    values = [float(statistic(_pooled(scores), axis=-1)) for scores in places]
    ends = [bootstrap_interval(statistic, scores, confidence, resamples) for scores in places]
    low, high = np.array(ends, np.float64).reshape(-1, 2).T
    return Band(np.array(values, np.float64), low, high)


def _tasks(scores: Scores) -> list[np.ndarray]:
    """The scores of each task, in ascending order, so that the order in which they came changes nothing."""
    given: list[Any] = list(scores) if isinstance(scores, Sequence) else list(np.asarray(scores))
    tasks = [np.asarray(given, np.float64)] if given and np.ndim(given[0]) == 0 else given
    tables = [np.sort(np.asarray(each, np.float64)) for each in tasks]
    if not tables or any(table.ndim != 1 or len(table) == 0 for table in tables):
        raise ValueError("there have to be scores of one seed or more in each task")
    if not all(np.isfinite(table).all() for table in tables):
        raise ValueError("a score is no finite number")
    return tables


def _pooled(scores: Scores) -> np.ndarray:
    return np.concatenate(_tasks(scores))


def _wins(x: Scores, y: Scores) -> list[np.ndarray]:
    """S(xᵢ, yⱼ) for each task, `[N, M]`."""
    pairs = list(zip(_tasks(x), _tasks(y), strict=True))
    return [(a[:, None] > b) + 0.5 * (a[:, None] == b) for a, b in pairs]


def _middle(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, _quantiles(confidence))
    return float(low), float(high)


def _quantiles(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but it has to be between 0 and 1")
    return (1 - confidence) / 2, (1 + confidence) / 2
