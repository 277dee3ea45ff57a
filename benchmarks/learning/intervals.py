"""How often an interval of 95 % holds the true value: the table of docs/experiments.md, by simulation.

python -m benchmarks.learning.intervals [--experiments 2000]      a few minutes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import numpy as np

from upright.comparison.statistics import (
    POINTWISE_RESAMPLES,
    Statistic,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    wilson_interval,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
STATISTICS: dict[str, Statistic] = {"interquartile mean": interquartile_mean, "mean": np.mean, "median": np.median}
OF_THE_TRUTH = 1_000_000  # scores, from which the true value is computed


def normal(random: np.random.Generator, seeds: int) -> np.ndarray:
    """Scores around 0."""
    return random.standard_normal(seeds)


def exponential(random: np.random.Generator, seeds: int) -> np.ndarray:
    """Scores with a long tail."""
    return random.standard_exponential(seeds)


def mostly_solved(random: np.random.Generator, seeds: int) -> np.ndarray:
    """CartPole-v1's: 500, and 100 to 475 of the 8 % that fail."""
    return np.where(random.random(seeds) < 0.08, random.uniform(100, 475, seeds), 500.0)


def held(intervals: Iterable[tuple[float, float]], truth: float) -> float:
    """The share of the intervals that hold the true value."""
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def coverage(draw: Draw, seeds: int, experiments: int) -> dict[str, float]:
    """Of so many experiments, the share whose interval holds the true value, by statistic."""
    random = np.random.default_rng(seeds)
    scores = [draw(random, seeds) for _ in range(experiments)]
    shares = {}
    for name, statistic in STATISTICS.items():
        truth = float(statistic(draw(random, OF_THE_TRUTH), axis=0))
        shares[name] = held(
            (bootstrap_interval(statistic, each, resamples=POINTWISE_RESAMPLES) for each in scores), truth
        )
    return shares


def main() -> None:
    """Simulate, and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--experiments", type=int, default=2_000)
    count = words.parse_args().experiments
    random = np.random.default_rng(0)
    for draw, sizes in ((normal, (5, 10, 20)), (exponential, (5, 10, 20)), (mostly_solved, (20,))):
        for seeds in sizes:
            shares = coverage(draw, seeds, count)
            shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            print(f"{seeds} seeds, {draw.__name__}: {shown}", flush=True)
    for seeds in (10, 20, 50):
        for share in (0.5, 0.9, 0.98):
            intervals = [wilson_interval(int(solved), seeds) for solved in random.binomial(seeds, share, count)]
            print(f"{seeds} seeds, {share:.0%} solved: {held(intervals, share):.0%}")
    for seeds in (5, 10, 20):  # of the same distribution, so that the true probability is a half
        pairs = [(normal(random, seeds), normal(random, seeds)) for _ in range(count)]
        intervals = [improvement_interval(*pair, resamples=POINTWISE_RESAMPLES) for pair in pairs]
        print(f"{seeds} seeds each, improvement: {held(intervals, 0.5):.0%}", flush=True)


if __name__ == "__main__":
    main()
