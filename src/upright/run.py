"""A run: one configuration trained with one seed, in memory and, if it has a folder, on disk.

runs/<env>/<experiment>/
  config.json             the environment and every setting, resolved
  seed-0/
    metrics.jsonl         append-only
    policy/               what predict needs
    result.json           the final evaluation
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import upright
from upright.agent import Agent, write_atomically
from upright.config import Config, Prioritised
from upright.errors import RunError, SettingError, UprightError
from upright.evaluate import check_seed
from upright.metrics import EpisodeStatistics, JsonLines, Progress
from upright.replay import NStep, PrioritisedReplay, ReplayMemory, bytes_needed, check_memory, columns_for, in_gib
from upright.sources import EnvironmentSource, describe, logger, portable_name
from upright.vectors import make_vector

RUN_SCHEMA = 1


class Run:
    """Everything that `train` advances.

    step, updates: counts so far · obs `[E, *shape]`, mask `[E, A]`: what the next actions answer
    folder: where it is kept, or None
    What its user should know goes to the logger "upright".
    interrupted: whether `train` was broken off in mid-step, so that it has to `restart`
    Raises before anything is allocated or written when it could not work.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        config: Config,
        seed: int = 0,
        folder: Path | None = None,
        network: Any = None,
    ) -> None:
        check_seed(seed)
        self.source, self.config, self.seed, self.folder = source, config, int(seed), folder
        self.metrics: JsonLines | None = None
        self.interrupted = False
        self._first_episode = 0
        self.vector = make_vector(source, config, self.seed)
        try:
            self.obs, self.mask = self.vector.reset()
            self._build(network)
        except BaseException:
            self.close()
            raise
        self.step = self.updates = 0
        self.episodes = EpisodeStatistics(config.num_envs)
        self.started = time.perf_counter()

    def _build(self, network: Any) -> None:
        config, vector = self.config, self.vector
        masked = None if self.mask is None else vector.actions.n
        columns = columns_for(vector.observations.shape, vector.observations.dtype, masked)
        needed = bytes_needed(config.buffer_size, columns)
        logger.info(f"The replay memory of {config.buffer_size:,} transitions takes {in_gib(needed)}.")
        check_memory(needed)
        # Independent streams from one seed; the environments derive theirs from it by episode.
        acting, replay, learner = np.random.SeedSequence(self.seed).generate_state(3).tolist()
        self.random = np.random.default_rng(acting)
        self.agent = Agent(config, vector.observations, vector.actions, self.source, learner, network)
        try:
            self.replay = (
                PrioritisedReplay(config.buffer_size, config.replay, columns, replay)
                if isinstance(config.replay, Prioritised)
                else ReplayMemory(config.buffer_size, columns, replay)
            )
        except MemoryError as error:  # where the system does not say beforehand what it has
            raise UprightError(
                f"The replay memory needs {in_gib(needed)}, which this machine refuses: lower buffer_size."
            ) from error
        self.nstep = NStep(config.n_steps, config.gamma, config.num_envs)
        if self.folder is not None:
            self._claim(self.folder)

    @property
    def name(self) -> str:
        """The environment's name."""
        return describe(self.source)

    def extend(self, total_timesteps: int) -> None:
        """Train to that many steps instead; schedules that span the run stretch with it."""
        self.config = self.config.override(total_timesteps=total_timesteps)
        self.agent.config = self.config
        if self.folder is not None:
            _write_description(self.folder.parent, self.source, self.config)

    def restart(self) -> None:
        """Begin new episodes where the last ones were broken off in mid-step, by a fault or Ctrl-C.

        Their seeds follow those that any environment has used. What is learned and stored stays.
        """
        self.vector.close()
        self._first_episode += self.episodes.count + 1
        self.vector = make_vector(self.source, self.config, self.seed, self._first_episode)
        self.obs, self.mask = self.vector.reset()
        self.nstep = NStep(self.config.n_steps, self.config.gamma, self.config.num_envs)
        self.episodes.forget_running()

    def report(self, metrics: dict[str, float]) -> Progress:
        """What happened since the last report, which also goes into the run's folder, if it has one."""
        progress = Progress(self.step, self.config.total_timesteps, self.episodes.take(), metrics)
        if self.metrics is not None:
            self.metrics.write(progress)
        return progress

    def flush(self) -> None:
        """Write the episodes that ended since the last report."""
        if self.metrics is not None and self.episodes.new:
            self.report({})

    def save(self) -> None:
        """Write the policy as it is now into the run's folder, if it has one."""
        if self.folder is not None:
            self.agent.save(self.folder / "policy")

    def save_result(self, result: dict[str, Any]) -> None:
        """Write result.json into the run's folder, if it has one."""
        if self.folder is not None:
            write_atomically(self.folder / "result.json", json.dumps(result, indent=2).encode())

    def discard(self) -> None:
        """Take the folder of a run that never took a step away again, and the experiment's if it holds no other."""
        self.close()
        if self.folder is not None:
            _remove(self.folder)

    def close(self) -> None:
        """Close the environments and the metrics file."""
        self.vector.close()
        if self.metrics is not None:
            self.metrics.close()

    def _claim(self, folder: Path) -> None:
        """Make the folder of a new run; refuse one that another run has, or an experiment with other settings."""
        experiment = folder.parent / "config.json"
        if _is_taken(folder):
            raise RunError(f"{folder} already holds a run; choose another seed (--seed) or folder (--out).")
        if experiment.exists() and not _same(experiment, self.source, self.config):
            raise RunError(
                f"{folder.parent} holds an experiment with another environment or other settings; "
                "choose another folder (--out)."
            )
        try:
            folder.mkdir(parents=True, exist_ok=folder.is_dir())
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}; choose another folder (--out).") from error
        try:
            self.metrics = JsonLines(folder / "metrics.jsonl")
            _write_description(folder.parent, self.source, self.config)
        except BaseException:
            self.close()
            _remove(folder)
            raise


def _remove(folder: Path) -> None:
    """The folder of a run, and of its experiment if that holds no other run."""
    shutil.rmtree(folder)
    if {each.name for each in folder.parent.iterdir()} <= {"config.json"}:
        shutil.rmtree(folder.parent)


def seed_folder(experiment: Path, seed: int) -> Path:
    """Where an experiment keeps the run with this seed."""
    return experiment / f"seed-{seed}"


def new_folder(root: Path, source: EnvironmentSource, config: Config, preset: str, seed: int) -> Path:
    """A free folder root/<env>/<preset>[-k]/seed-<seed>, in the experiment with these very settings if there is one."""
    name = re.sub(r"[^\w.-]+", "_", describe(source))
    k = 1
    while True:
        experiment = root / name / (preset if k == 1 else f"{preset}-{k}")
        folder = seed_folder(experiment, seed)
        if not experiment.exists():
            return folder
        if _same(experiment / "config.json", source, config) and not _is_taken(folder):
            return folder
        k += 1


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _describe(source: EnvironmentSource, config: Config) -> dict[str, Any]:
    description = {
        "schema": RUN_SCHEMA,
        "upright": upright.__version__,
        "env": portable_name(source),
        "name": describe(source),
        "config": config.to_dict(),
    }
    try:
        return dict(json.loads(json.dumps(description, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise SettingError(f"A setting cannot be written to config.json: {error}.") from error


def _write_description(experiment: Path, source: EnvironmentSource, config: Config) -> None:
    text = json.dumps(_describe(source, config), indent=2, ensure_ascii=False) + "\n"
    write_atomically(experiment / "config.json", text.encode())


def _same(path: Path, source: EnvironmentSource, config: Config) -> bool:
    """Whether a config.json describes the same environment and settings, by whichever version of upright."""
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    ours = _describe(source, config)
    return isinstance(written, dict) and {**written, "upright": None} == {**ours, "upright": None}
