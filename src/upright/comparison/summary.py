"""The summary of the final policies of an experiment's seeds, each figure with its interval.

A statistic is a field of `Summary` that `_statistic` declares: summary.json, `--json` and the tables follow from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.comparison.statistics import (
    CONFIDENCE,
    Estimate,
    Statistic,
    bootstrap_interval,
    interquartile_mean,
    wilson_interval,
)
from upright.errors import SettingError, wrong
from upright.files import is_number


@dataclass(frozen=True)
class Result:
    """The values in the result.json of a finished seed that a summary needs.

    seconds: from the start to the result · final_mean: the mean return of the final policy
    threshold: the return at which the environment counts as solved, or None
    """

    env: str
    seed: int
    steps: int
    seconds: float
    final_mean: float
    threshold: float | None

    @property
    def solved(self) -> bool | None:
        """True if the final policy reaches the threshold; None without one."""
        return None if self.threshold is None else self.final_mean >= self.threshold

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Result:
        """Return what is needed of result.json's values. Raises ValueError where one is missing or of another type."""
        for name in ("seed", "steps", "final_mean", "seconds"):
            if not is_number(written.get(name)):
                raise ValueError(f"it holds no number as {name}")
        env, threshold = written.get("env"), written.get("threshold", "")
        if not isinstance(env, str):
            raise ValueError("it names no environment")
        if not (threshold is None or is_number(threshold)):
            raise ValueError("its threshold is neither a number nor null")
        return cls(env, written["seed"], written["steps"], written["seconds"], written["final_mean"], threshold)


@dataclass(frozen=True)
class Solved:
    """The number of seeds that reach the threshold, their share, and Wilson's interval of it."""

    seeds: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, seeds: int, trials: int) -> Solved:
        """Return the share of that many seeds among that many trials."""
        return cls(seeds, seeds / trials, *wilson_interval(seeds, trials))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"seeds": self.seeds, "share": self.share, "interval": [self.low, self.high]}


@dataclass(frozen=True)
class Seconds:
    """The time that the seeds took from start to result, in all and on average."""

    total: float
    mean: float


def _statistic(function: Statistic, words: str) -> dict[str, Any]:
    """Declare a field as this statistic of the seeds' final mean returns, and what a table calls it."""
    return {"function": function, "words": words}


@dataclass(frozen=True)
class Summary:
    """The results of the seeds of one experiment.

    steps: those of each seed · seeds, final_means: in the same order · confidence: of the intervals
    threshold, solved: None where the environment names no threshold
    """

    env: str
    steps: int
    seeds: tuple[int, ...]
    final_means: tuple[float, ...]
    confidence: float
    interquartile_mean: Estimate = dataclasses.field(metadata=_statistic(interquartile_mean, "interquartile mean"))
    mean: Estimate = dataclasses.field(metadata=_statistic(np.mean, "mean"))
    median: Estimate = dataclasses.field(metadata=_statistic(np.median, "median"))
    worst: Estimate = dataclasses.field(metadata=_statistic(np.min, "worst seed"))
    threshold: float | None
    solved: Solved | None
    seconds: Seconds

    @classmethod
    def of(cls, results: Iterable[Result]) -> Summary:
        """Summarise the results of one experiment's seeds, at least one."""
        results = sorted(results, key=lambda result: result.seed)
        means = tuple(result.final_mean for result in results)
        seconds = [result.seconds for result in results]
        thresholds = {result.threshold for result in results}
        threshold = thresholds.pop() if len(thresholds) == 1 else None
        solved = None if threshold is None else Solved.of(sum(mean >= threshold for mean in means), len(means))
        return cls(
            env=results[0].env,
            steps=max(result.steps for result in results),
            seeds=tuple(result.seed for result in results),
            final_means=means,
            confidence=CONFIDENCE,
            threshold=threshold,
            solved=solved,
            seconds=Seconds(round(sum(seconds), 3), round(float(np.mean(seconds)), 3)),
            **{name: _estimate(about["function"], means) for name, about in _statistics().items()},
        )

    @property
    def statistics(self) -> dict[str, Estimate]:
        """Every statistic of the final policies, by what a table calls it."""
        return {about["words"]: getattr(self, name) for name, about in _statistics().items()}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, as summary.json has it."""
        about = {
            "env": self.env,
            "steps": self.steps,
            "seeds": list(self.seeds),
            "final_means": list(self.final_means),
            "confidence": self.confidence,
            **{name: getattr(self, name).to_dict() for name in _statistics()},
        }
        if self.solved is not None:
            about |= {"threshold": self.threshold, "solved": self.solved.to_dict()}
        return {**about, "seconds": dataclasses.asdict(self.seconds)}


def _statistics() -> dict[str, Mapping[str, Any]]:
    """Return what `_statistic` declares, by the field's name."""
    return {field.name: field.metadata for field in dataclasses.fields(Summary) if field.metadata}


def _estimate(statistic: Statistic, means: Sequence[float]) -> Estimate:
    return Estimate(float(statistic(np.array(means), axis=-1)), *bootstrap_interval(statistic, means))


def summarise(results: Sequence[Mapping[str, Any]]) -> Summary:
    """Summarise what the final policies of an experiment's seeds have reached, from their results.

    results: what each `Finished` has, or what result.json holds

    Each statistic of the final mean returns, and the share of seeds solved, has its 95 % interval: by the bootstrap
    over seeds, and Wilson's. The worst seed's can only reach upwards: no resample holds a worse one. Raises
    SettingError for seeds that were not evaluated or values that are not a result's.
    """
    if (
        not isinstance(results, Sequence)
        or not len(results)
        or not all(isinstance(result, Mapping) for result in results)
    ):
        raise wrong("results", results, "the results of an experiment's seeds, at least one")
    for result in results:
        if "final_mean" in result and result["final_mean"] is None:
            raise SettingError(
                f"Seed {result.get('seed')} has no score to summarise, because its final policy was not evaluated; "
                "train with n_final_episodes of 1 or more."
            )
    try:
        return Summary.of(map(Result.from_dict, results))
    except (ValueError, TypeError) as error:
        raise SettingError(f"results cannot be summarised: {error}.") from error


def write_summary(path: Path, summary: Summary) -> None:
    """Write an experiment's summary.json; its seeds' results hold everything that it was computed from."""
    files.write(path, (json.dumps(summary.to_dict(), indent=2) + "\n").encode())
