"""The figures of a row of the benchmark, from its file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learning.contestants import Contestant
from upright import Config
from upright.comparison.statistics import bootstrap_interval, interquartile_mean, wilson_interval


@dataclass(frozen=True)
class Figures:
    """What the seeds of a row say together.

    results: as `trial.py` printed them, in the order of the seeds
    """

    contestant: Contestant
    results: list[dict[str, Any]]

    @property
    def count(self) -> int:
        """Seeds."""
        return len(self.results)

    @property
    def finals(self) -> list[float]:
        """The mean return of each seed's final policy."""
        return [math.fsum(each["returns"]) / len(each["returns"]) for each in self.results]

    @property
    def solved(self) -> int:
        """Seeds whose final policy reaches the threshold."""
        return sum(each >= self.contestant.task.threshold for each in self.finals)

    @property
    def perfect(self) -> int:
        """Seeds whose final policy is as good as the best, on a task where that is known."""
        best = self.contestant.task.best
        return 0 if best is None else sum(each >= best for each in self.finals)

    @property
    def solved_interval(self) -> tuple[float, float]:
        """Wilson's interval of the share of seeds solved."""
        return wilson_interval(self.solved, self.count)

    @property
    def middle(self) -> float:
        """The interquartile mean of the final policies' mean returns."""
        return float(interquartile_mean(self.finals))

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bootstrap interval."""
        return bootstrap_interval(interquartile_mean, self.finals)

    @property
    def first_solves(self) -> list[tuple[float, float]]:
        """Steps and processor seconds to the first point of each seed's curve at the threshold; never is infinite."""
        reached = self.contestant.task.threshold
        never = (math.inf, math.inf)
        return [
            next(((steps, seconds) for steps, mean, seconds in each["curve"] if mean >= reached), never)
            for each in self.results
        ]

    @property
    def seconds(self) -> float:
        """Processor seconds of a training, the median over the seeds."""
        return float(np.median([each["cpu_seconds"] for each in self.results]))

    @property
    def steps(self) -> int:
        """Environment steps of a training: a few more than asked for, where a library learns in whole rounds."""
        return int(self.results[0]["steps"])


def read(contestant: Contestant) -> list[dict[str, Any]]:
    """The results of a row, in the order of the seeds."""
    if not contestant.path.exists():
        return []
    return [json.loads(line) for line in contestant.path.read_text(encoding="utf-8").splitlines()]


# Settings that are newer than some results and change nothing here: no task has bounded integers as observations, or
# masks elsewhere than in info.
WITHOUT_EFFECT = ("action_masks", "scale_integers")


def holds(result: dict[str, Any], contestant: Contestant) -> bool:
    """Whether a result is of the row's settings; what upright could not set at its time is as it was then."""
    settings = result["settings"]
    if contestant.library == "upright":
        settings = Config.from_file(settings).to_dict()
        settings |= {name: contestant.settings[name] for name in WITHOUT_EFFECT}
    return bool(settings == contestant.settings)
