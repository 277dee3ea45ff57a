"""Experiments side by side, and over several environments together: everything that `upright compare` prints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from upright.comparison.compare import Comparison, Experiment, final_scores, threshold_in
from upright.comparison.statistics import (
    Estimate,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
)
from upright.comparison.summary import Solved, Summary


@dataclass(frozen=True)
class FirstSolve:
    """When the seeds first reached the threshold while training: how many did, and the median steps and seconds.

    The median is over all seeds, of which those that never did are the last: None where they are half or more.
    """

    seeds: int
    steps: float | None
    seconds: float | None


@dataclass(frozen=True)
class Compared:
    """An experiment among those of its environment.

    summary: None where no seed is finished · to_solve: None without a threshold
    improvement: the probability that a seed scores above one of the first experiment; None for that one itself
    """

    experiment: Experiment
    summary: Summary | None
    to_solve: FirstSolve | None
    improvement: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "experiment": self.experiment.label,
            "folder": str(self.experiment.folder),
            "left_out": self.experiment.left_out,
            **({"seeds": []} if self.summary is None else self.summary.to_dict()),
            "to_solve": None if self.to_solve is None else dataclasses.asdict(self.to_solve),
            "improvement": None if self.improvement is None else self.improvement.to_dict(),
        }


@dataclass(frozen=True)
class Group:
    """The experiments on one environment, and the settings in which they differ, by the experiment's label."""

    env: str
    threshold: float | None
    experiments: tuple[Compared, ...]
    differences: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "env": self.env,
            "threshold": self.threshold,
            "experiments": [compared.to_dict() for compared in self.experiments],
            "differences": self.differences,
        }


@dataclass(frozen=True)
class Combined:
    """Experiments with the same name over several environments.

    seeds: in all of them · solved, interquartile_mean: None where an environment has no threshold other than 0
    improvement: as in `Compared`
    """

    label: str
    seeds: int
    improvement: Estimate | None
    solved: Solved | None
    interquartile_mean: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        about: dict[str, Any] = {
            "experiment": self.label,
            "seeds": self.seeds,
            "improvement": None if self.improvement is None else self.improvement.to_dict(),
        }
        if self.solved is not None:
            about["solved"] = {"seeds": self.solved.seeds, "interval": [self.solved.low, self.solved.high]}
        if self.interquartile_mean is not None:
            about["interquartile_mean"] = self.interquartile_mean.to_dict()
        return about


@dataclass(frozen=True)
class Together:
    """Results over the environments in which every experiment, by its name, has finished seeds."""

    environments: tuple[str, ...]
    experiments: tuple[Combined, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "environments": list(self.environments),
            "experiments": [combined.to_dict() for combined in self.experiments],
        }


@dataclass(frozen=True)
class Report:
    """Everything that a comparison says. together: None where there is one environment"""

    returns: Literal["train", "eval"]
    environments: tuple[Group, ...]
    together: Together | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, as `--json` prints it."""
        return {
            "returns": self.returns,
            "environments": [group.to_dict() for group in self.environments],
            "together": None if self.together is None else self.together.to_dict(),
        }


def report_on(comparison: Comparison) -> Report:
    """Compute everything that a comparison says."""
    groups = tuple(_group(env, group, comparison.returns) for env, group in comparison.groups.items())
    return Report(comparison.returns, groups, _together(comparison.groups))


def _group(env: str, group: Sequence[Experiment], returns: Literal["train", "eval"]) -> Group:
    threshold = threshold_in(group)
    compared = (
        Compared(
            experiment,
            _summary(experiment, threshold),
            None if threshold is None else _to_solve(experiment, threshold, returns),
            None if experiment is group[0] else _improvement([experiment], [group[0]]),
        )
        for experiment in group
    )
    return Group(env, threshold, tuple(compared), _differences(group))


def _summary(experiment: Experiment, threshold: float | None) -> Summary | None:
    """The summary of the finished seeds, by the threshold that all experiments of the environment share."""
    results = [dataclasses.replace(seed.result, threshold=threshold) for seed in experiment.seeds.values()]
    return Summary.of(results) if results else None


def _to_solve(experiment: Experiment, threshold: float, returns: Literal["train", "eval"]) -> FirstSolve:
    """A seed first reaches the threshold at the first evaluation whose mean return does.

    Where not all seeds were evaluated while training, it is at the first record in which the mean return of the last
    100 episodes does.
    """
    rows = [seed.reached[returns] for seed in experiment.seeds.values()]
    first = [above[0] if len(above := row[row[:, 1] >= threshold]) else np.full(3, np.inf) for row in rows]
    steps, _, seconds = np.median(first, axis=0) if first else np.full(3, np.inf)
    return FirstSolve(
        int(np.isfinite([row[0] for row in first]).sum()),
        float(steps) if np.isfinite(steps) else None,
        float(seconds) if np.isfinite(seconds) else None,
    )


def _improvement(better: Sequence[Experiment], than: Sequence[Experiment]) -> Estimate | None:
    """The probability that a run of one scores above one of the other, the environments in the same order."""
    x, y = [final_scores(experiment) for experiment in better], [final_scores(experiment) for experiment in than]
    if not all(x) or not all(y):
        return None
    return Estimate(probability_of_improvement(x, y), *improvement_interval(x, y))


def _differences(group: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """The settings in which the experiments differ, with the value of each; None where one has no such setting."""
    readable = [experiment for experiment in group if experiment.settings]
    names = dict.fromkeys(name for experiment in readable for name in experiment.settings)
    table = {name: {experiment.label: experiment.settings.get(name) for experiment in readable} for name in names}
    return {name: values for name, values in table.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _together(groups: Mapping[str, Sequence[Experiment]]) -> Together | None:
    """The experiments with the same name in several environments, over the environments common to all of them."""
    if len(groups) < 2:
        return None
    labels = list(dict.fromkeys(experiment.label for group in groups.values() for experiment in group))
    finished = {env: {found.label: found for found in group if found.seeds} for env, group in groups.items()}
    common = tuple(env for env, found in finished.items() if set(found) == set(labels))
    if len(common) < 2:
        return Together(common, ())
    thresholds = [threshold_in(groups[env]) for env in common]
    rows = {label: [finished[env][label] for env in common] for label in labels}
    first = rows[labels[0]]
    return Together(common, tuple(_combined(label, row, first, thresholds) for label, row in rows.items()))


def _combined(
    label: str, experiments: Sequence[Experiment], first: Sequence[Experiment], thresholds: Sequence[float | None]
) -> Combined:
    """The experiments of one name, one in each environment.

    Returns of different environments cannot be averaged, so they are put into units of the threshold t:
    1 + (return − t) / |t|, which is 1 where the environment counts as solved.
    """
    seeds = sum(len(experiment.seeds) for experiment in experiments)
    improvement = None if experiments is first else _improvement(experiments, first)
    known = [threshold for threshold in thresholds if threshold]  # with 0 as the unit, nothing can be measured
    if len(known) < len(thresholds):
        return Combined(label, seeds, improvement, None, None)
    pairs = list(zip(map(final_scores, experiments), known, strict=True))
    scores = [1 + (np.array(returns) - t) / abs(t) for returns, t in pairs]
    solved = sum(score >= t for returns, t in pairs for score in returns)
    middle = Estimate(interquartile_mean(scores), *bootstrap_interval(interquartile_mean, scores))
    return Combined(label, seeds, improvement, Solved.of(solved, seeds), middle)
