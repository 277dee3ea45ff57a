"""Experiments side by side: `upright compare`. It only reads, and what cannot count is left out with the reason.

What it finds is plain values, which `--json` prints; the table and the picture show the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from upright import files
from upright.comparison.curves import Curve, curve_of, environment_of, threshold_of
from upright.comparison.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
    wilson_interval,
)
from upright.comparison.summary import summarise
from upright.errors import RunError, SettingError, one_line
from upright.files import is_number
from upright.runs import records
from upright.runs.metrics import WINDOW
from upright.settings.config import Config

TAGS = ("rollout/ep_rew", "rollout/ep_rew_mean", "eval/mean_reward", "time/episodes", "time/time_elapsed")


@dataclass(frozen=True)
class Seed:
    """A run that is finished.

    result: its numbers out of result.json · curves: the episodes' returns while training, and the evaluations' means
    reached: rows of step, return and seconds since the run was built: of the mean of the last 100 episodes, and of the
    evaluations
    """

    result: dict[str, Any]
    curves: dict[Literal["train", "eval"], Curve]
    reached: dict[Literal["train", "eval"], np.ndarray]


@dataclass(frozen=True)
class Experiment:
    """An experiment as far as it is finished.

    env: the environment's name, with its arguments if it has any · settings: by name, as far as they can be read
    seeds, left_out: by the name of the run's folder; what is left out with the reason
    """

    folder: Path
    label: str
    env: str
    threshold: float | None
    settings: dict[str, Any]
    seeds: dict[str, Seed]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """Experiments by environment, and what their curves show: the evaluations where all seeds have some."""

    groups: dict[str, list[Experiment]]
    returns: Literal["train", "eval"]

    def to_dict(self) -> dict[str, Any]:
        """All that it says, as JSON values."""
        return {
            "returns": self.returns,
            "environments": [_group(env, group, self.returns) for env, group in self.groups.items()],
            "together": _together(self.groups),
        }


def read_comparison(folders: Iterable[Path]) -> Comparison:
    """The experiments in these folders. Raises RunError only where a folder holds none at all."""
    found: dict[Path, Path] = {}
    for folder in folders:
        for experiment in _experiments(folder):
            found.setdefault(experiment.resolve(), experiment)
    if not found:
        raise SettingError(
            "There is nothing to compare: give folders of experiments, such as runs/CartPole-v1/default."
        )
    groups: dict[str, list[Experiment]] = {}
    for folder in found.values():
        env, settings, problem = _described(folder)
        group = groups.setdefault(env, [])
        taken = folder.name in [each.label for each in group]
        group.append(_read(folder, one_line(str(folder) if taken else folder.name), env, settings, problem))
    seeds = [seed for group in groups.values() for each in group for seed in each.seeds.values()]
    return Comparison(groups, "eval" if seeds and all(len(seed.curves["eval"].steps) for seed in seeds) else "train")


def _experiments(folder: Path) -> list[Path]:
    """The folder of an experiment, or those of the experiments in it, down to a sweep's in the folder of all runs.

    A study's trials are many and chosen from: they count where it is the study that is given.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; give that of an experiment, such as runs/CartPole-v1/default.")
    runs = [run for depth in range(4) for run in sorted(folder.glob("*/" * depth + "seed-*")) if run.is_dir()]
    found = dict.fromkeys(run.parent for run in runs)
    trials = {each for each in found if (each.parent / "study.json").exists() and folder not in (each, each.parent)}
    if not found.keys() - trials:
        if trials:
            raise RunError(f"There are only trials of studies in {folder}; give the folder of a study or of a trial.")
        raise RunError(
            f"There is no experiment in {folder}: no folder seed-* in it or in those that it holds; give the folder of "
            "an experiment, such as runs/CartPole-v1/default."
        )
    return [each for each in found if each not in trials]


def _described(experiment: Path) -> tuple[str, dict[str, Any], str | None]:
    """The environment, the settings by name, and what is wrong with config.json."""
    env = environment_of(experiment)
    try:
        settings = Config.from_file(files.read_json(experiment / "config.json").get("config", {})).to_dict()
        text = json.dumps(settings["env_kwargs"], sort_keys=True)
    except (RunError, SettingError, TypeError, ValueError, RecursionError) as error:
        return env, {}, str(error)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        parts = value.items() if isinstance(value, dict) and name != "env_kwargs" else ()
        flat |= {f"{name}.{part}": each for part, each in parts} or {name: value}
    return env if text == "{}" else one_line(f"{env} {text}"), flat, None


def _read(folder: Path, label: str, env: str, settings: dict[str, Any], problem: str | None) -> Experiment:
    seeds, left_out = {}, {} if problem is None else {"config.json": problem}
    runs = [run for run in folder.glob("seed-*") if run.is_dir()]
    for run in sorted(runs, key=lambda run: (len(run.name), run.name)):  # seed-2 before seed-10
        try:
            seeds[run.name] = _seed(run, settings.get("total_timesteps", 0))
        except RunError as error:
            left_out[run.name] = str(error)
    return Experiment(folder, label, env, threshold_of(folder, runs), settings, seeds, left_out)


def _seed(run: Path, total: int) -> Seed:
    """A finished run. Raises RunError with the reason why it cannot count."""
    files.refuse_link(run)
    path = run / "result.json"
    if not path.exists():
        if not (run / "metrics.jsonl").exists():
            raise RunError("it holds no run yet")
        steps = [line[records.STEP] for line in records.read(run / "metrics.jsonl", ())]
        raise RunError(
            f"it has no result yet, at step {int(max(steps, default=0)):,}: it is being trained, or was killed "
            f"(upright resume {run})"
        )
    result = files.read_json(path)
    if "final_mean" in result and result["final_mean"] is None:
        raise RunError(f"it was stopped before its end (upright resume {run})")
    numbers: dict[str, Any] = {name: result.get(name) for name in ("seed", "steps", "final_mean", "seconds")}
    for name, number in numbers.items():
        if not is_number(number):
            raise RunError(f"{path} is damaged: it holds no number as {name}")
    if numbers["steps"] < total:
        raise RunError(f"it ended after {numbers['steps']:,} of {total:,} steps (upright resume {run})")
    return Seed(numbers, *_history(run))


def _history(
    run: Path,
) -> tuple[dict[Literal["train", "eval"], Curve], dict[Literal["train", "eval"], np.ndarray]]:
    episodes: list[tuple[float, float]] = []
    means: list[tuple[float, float, float]] = []
    evaluations: list[tuple[float, float, float]] = []
    for line in records.read(run / "metrics.jsonl", TAGS):
        step, seconds = line[records.STEP], line.get("time/time_elapsed", np.nan)
        if "rollout/ep_rew" in line:
            episodes.append((step, line["rollout/ep_rew"]))
        if "rollout/ep_rew_mean" in line and line.get("time/episodes", 0) >= WINDOW:
            means.append((step, line["rollout/ep_rew_mean"], seconds))
        if "eval/mean_reward" in line:
            evaluations.append((step, line["eval/mean_reward"], seconds))
    return (
        {"train": curve_of(episodes), "eval": curve_of([each[:2] for each in evaluations])},
        {"train": np.reshape(means, (-1, 3)), "eval": np.reshape(evaluations, (-1, 3))},
    )


def threshold_in(group: Sequence[Experiment]) -> float | None:
    """The return at which the environment of these experiments counts as solved."""
    return next((each.threshold for each in group if each.threshold is not None), None)


def final_scores(experiment: Experiment) -> list[float]:
    """The mean returns of the final policies, in the seeds' order."""
    return [seed.result["final_mean"] for seed in experiment.seeds.values()]


def _group(env: str, group: Sequence[Experiment], returns: Literal["train", "eval"]) -> dict[str, Any]:
    threshold = threshold_in(group)
    return {
        "env": env,
        "threshold": threshold,
        "experiments": [
            {
                "experiment": each.label,
                "folder": str(each.folder),
                "left_out": each.left_out,
                **_summary(each, threshold),
                "to_solve": None if threshold is None else _to_solve(each, threshold, returns),
                "improvement": None if each is group[0] else _improvement([each], [group[0]]),
            }
            for each in group
        ],
        "differences": _differences(group),
    }


def _summary(experiment: Experiment, threshold: float | None) -> dict[str, Any]:
    """As `upright.experiments.training.summarise` has it; nothing where no seed is finished."""
    if not experiment.seeds:
        return {"seeds": []}
    judged = [
        {
            **seed.result,
            "env": experiment.env,
            "threshold": threshold,
            "solved": None if threshold is None else seed.result["final_mean"] >= threshold,
        }
        for seed in experiment.seeds.values()
    ]
    return summarise(judged)


def _to_solve(experiment: Experiment, threshold: float, returns: Literal["train", "eval"]) -> dict[str, Any]:
    """How many seeds came to the threshold at all, and the median steps and seconds to it, those that never did last.

    A seed has come to it at its first evaluation with such a mean return; or, where not all seeds were evaluated
    while training, at its first record in which the last 100 episodes have such a mean return.
    """
    rows = [seed.reached[returns] for seed in experiment.seeds.values()]
    first = [above[0] if len(above := each[each[:, 1] >= threshold]) else np.full(3, np.inf) for each in rows]
    steps, _, seconds = np.median(first, axis=0) if first else np.full(3, np.inf)
    return {
        "seeds": int(np.isfinite([each[0] for each in first]).sum()),
        "steps": float(steps) if np.isfinite(steps) else None,
        "seconds": float(seconds) if np.isfinite(seconds) else None,
    }


def _improvement(better: Sequence[Experiment], than: Sequence[Experiment]) -> dict[str, Any] | None:
    """The probability that a run of one scores above one of the other, the environments in the same order."""
    x, y = [final_scores(each) for each in better], [final_scores(each) for each in than]
    if not all(x) or not all(y):
        return None
    return {"value": probability_of_improvement(x, y), "interval": list(improvement_interval(x, y))}


def _differences(group: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """The settings in which the experiments differ, with each one's value; None where it has no such setting."""
    told = [each for each in group if each.settings]
    names = dict.fromkeys(name for each in told for name in each.settings)
    table = {name: {each.label: each.settings.get(name) for each in told} for name in names}
    return {name: values for name, values in table.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _together(groups: Mapping[str, Sequence[Experiment]]) -> dict[str, Any] | None:
    """The experiments with the same name in several environments, over the environments common to all of them.

    Returns of different environments cannot be averaged, so they are put into units of the threshold t:
    1 + (return − t) / |t|, which is 1 where the environment counts as solved. None where there is one environment.
    """
    if len(groups) < 2:
        return None
    labels = list(dict.fromkeys(each.label for group in groups.values() for each in group))
    finished = {env: {each.label: each for each in group if each.seeds} for env, group in groups.items()}
    common = [env for env, found in finished.items() if set(found) == set(labels)]
    if len(common) < 2:
        return {"environments": common, "experiments": []}
    thresholds = [threshold_in(groups[env]) for env in common]
    experiments = []
    for label in labels:
        each = [finished[env][label] for env in common]
        about: dict[str, Any] = {
            "experiment": label,
            "seeds": sum(len(one.seeds) for one in each),
            "improvement": None if label == labels[0] else _improvement(each, [finished[e][labels[0]] for e in common]),
        }
        if all(thresholds):  # neither without one nor with 0, in whose units nothing can be measured
            pairs = list(zip(each, thresholds, strict=True))
            scores = [1 + (np.array(final_scores(one)) - t) / abs(t) for one, t in pairs if t is not None]
            solved = sum(score >= t for one, t in pairs if t is not None for score in final_scores(one))
            about["solved"] = {"seeds": solved, "interval": list(wilson_interval(solved, about["seeds"]))}
            about["interquartile_mean"] = {
                "value": interquartile_mean(scores),
                "interval": list(bootstrap_interval(interquartile_mean, scores)),
            }
        experiments.append(about)
    return {"environments": common, "experiments": experiments}
