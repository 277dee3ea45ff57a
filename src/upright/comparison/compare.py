"""Experiments side by side, as their folders hold them; whatever cannot count is left out, with the reason.

Nothing is written. What they say is computed in `upright.comparison.report`.
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
from upright.comparison.summary import Result
from upright.errors import RunError, SettingError, one_line
from upright.files import is_number
from upright.runs import records
from upright.runs.folders import SEED, ExperimentFolder, RunFolder, StudyFolder
from upright.runs.metrics import WINDOW
from upright.settings.config import Config

TAGS = (records.RETURN, "rollout/ep_rew_mean", "eval/mean_reward", "time/episodes", "time/time_elapsed")


@dataclass(frozen=True)
class Seed:
    """A run that is finished.

    curves: the episodes' returns while training, and the evaluations' means
    reached: rows of step, return and seconds since the run was built: of the mean of the last 100 episodes, and of the
    evaluations
    """

    result: Result
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


def read_comparison(folders: Iterable[Path]) -> Comparison:
    """The experiments in these folders. Raises RunError only where a folder holds none at all."""
    found: dict[Path, ExperimentFolder] = {}
    for folder in folders:
        for place in _experiments(folder):
            found.setdefault(place.path.resolve(), place)
    if not found:
        raise SettingError(
            "There is nothing to compare: give folders of experiments, such as runs/CartPole-v1/default."
        )
    groups: dict[str, list[Experiment]] = {}
    for place in found.values():
        env, settings, problem = _settings(place)
        group = groups.setdefault(env, [])
        name = place.path.name
        label = one_line(str(place.path) if name in [experiment.label for experiment in group] else name)
        group.append(_read(place, label, env, settings, problem))
    seeds = [seed for group in groups.values() for experiment in group for seed in experiment.seeds.values()]
    return Comparison(groups, "eval" if seeds and all(len(seed.curves["eval"].steps) for seed in seeds) else "train")


def _experiments(folder: Path) -> list[ExperimentFolder]:
    """The folder of an experiment, or those of the experiments in it, down to a sweep's in the folder of all runs.

    A study's trials are many and chosen from: they count where it is the study that is given.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give that of an experiment, such as runs/CartPole-v1/default.")
    runs = [run for depth in range(4) for run in sorted(folder.glob("*/" * depth + f"{SEED}*")) if run.is_dir()]
    found = dict.fromkeys(run.parent for run in runs)
    trials = {
        experiment
        for experiment in found
        if StudyFolder(experiment.parent).study.exists() and folder not in (experiment, experiment.parent)
    }
    if not found.keys() - trials:
        if trials:
            raise RunError(f"There are only trials of studies in {folder}; give the folder of a study or of a trial.")
        raise RunError(
            f"There is no experiment in {folder}: no folder {SEED}* in it or in those that it holds; give the folder "
            "of an experiment, such as runs/CartPole-v1/default."
        )
    return [ExperimentFolder(experiment) for experiment in found if experiment not in trials]


def _settings(experiment: ExperimentFolder) -> tuple[str, dict[str, Any], str | None]:
    """The environment, the settings by name, and what is wrong with config.json."""
    env = environment_of(experiment)
    try:
        settings = Config.from_file(files.read_json(experiment.config).get("config", {})).to_dict()
        text = json.dumps(settings["env_kwargs"], sort_keys=True)
    except (RunError, SettingError, TypeError, ValueError, RecursionError) as error:
        return env, {}, str(error)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        parts = value.items() if isinstance(value, dict) and name != "env_kwargs" else ()
        flat |= {f"{name}.{part}": each for part, each in parts} or {name: value}
    return env if text == "{}" else one_line(f"{env} {text}"), flat, None


def _read(place: ExperimentFolder, label: str, env: str, settings: dict[str, Any], problem: str | None) -> Experiment:
    seeds, left_out = {}, {} if problem is None else {place.config.name: problem}
    runs = place.seeds()
    for run in runs:
        try:
            seeds[run.path.name] = _seed(run, env, settings)
        except RunError as error:
            left_out[run.path.name] = str(error)
    return Experiment(place.path, label, env, threshold_of(place, runs), settings, seeds, left_out)


def _seed(run: RunFolder, env: str, settings: Mapping[str, Any]) -> Seed:
    """A finished run in this environment. Raises RunError with the reason why it cannot count."""
    files.refuse_link(run.path)
    resume = f"(upright resume {run.path})"
    if not run.result.exists():
        if not run.metrics.exists():
            raise RunError("it holds no run yet")
        steps = [line[records.STEP] for line in records.read(run.metrics, ())]
        raise RunError(
            f"it has no result yet, at step {int(max(steps, default=0)):,}: it is being trained, or was killed {resume}"
        )
    written = files.read_json(run.result)
    total, asked = settings.get("total_timesteps", 0), settings.get("n_final_episodes", 0)
    if settings and asked == 0:
        raise RunError("it has no score, because its settings ask for no final evaluation (n_final_episodes is 0)")
    if "final_mean" in written and written["final_mean"] is None:
        raise RunError(f"it was stopped before its end {resume}")
    try:
        result = Result.from_dict({**written, "env": env, "threshold": None})  # `report` knows the threshold
    except ValueError as error:
        raise RunError(f"{run.result} is damaged: {error}") from error
    if result.steps < total:
        raise RunError(f"it ended after {result.steps:,} of {total:,} steps {resume}")
    if is_number(episodes := written.get("episodes")) and episodes < asked:
        raise RunError(f"its final evaluation was stopped after {episodes:,} of {asked:,} episodes {resume}")
    return Seed(result, *_history(run))


def _history(
    run: RunFolder,
) -> tuple[dict[Literal["train", "eval"], Curve], dict[Literal["train", "eval"], np.ndarray]]:
    episodes: list[tuple[float, float]] = []
    means: list[tuple[float, float, float]] = []
    evaluations: list[tuple[float, float, float]] = []
    for line in records.read(run.metrics, TAGS):
        step, seconds = line[records.STEP], line.get("time/time_elapsed", np.nan)
        if records.RETURN in line:
            episodes.append((step, line[records.RETURN]))
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
    return [seed.result.final_mean for seed in experiment.seeds.values()]
