"""A run: one configuration trained with one seed, in memory and, if it has a folder, on disk.

runs/<env>/<experiment>/
  config.json             the environment and every setting, resolved
  seed-0/
    metrics.jsonl         append-only
    checkpoints/          all that the run goes on from (see `upright.checkpoint`)
    policy/               what predict needs
    best/                 the same, of the best evaluation so far; with eval_freq
    result.json           the final evaluation
    lock                  held by the process that trains here
    running.json          which process that is, for whoever looks on (see `upright.control`)
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from upright import control, storage
from upright.agent import Agent, allowed_source
from upright.checkpoint import CHECKPOINT_SCHEMA, Checkpoint, Checkpoints
from upright.config import Config, Prioritised
from upright.envs import Playing
from upright.errors import RunError, UprightError
from upright.evaluate import check_seed
from upright.folders import describe_run, is_same, is_taken, remove_run, write_description
from upright.generators import generator_state, set_generator_state
from upright.metrics import EpisodeStatistics, JsonLines, Progress
from upright.replay import NStep, PrioritisedReplay, ReplayMemory, bytes_needed, check_memory, columns_for, in_gib
from upright.sources import EnvironmentSource, describe, logger
from upright.vectors import differs, make_vector, stack_retaken


class Run:
    """Everything that `train` advances.

    step, updates: counts so far · obs `[E, *shape]`, mask `[E, A]`: what the next actions answer
    folder: where it is kept, or None
    What its user should know goes to the logger "upright".
    interrupted: whether `train` was broken off in mid-step, so that it has to `restart`
    stopping: set it to let `train` end after the step that it is in
    best: the highest mean return of an evaluation so far
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
        self.interrupted = self.stopping = False
        self.best = -math.inf
        self._first_episode = 0
        self._lock: filelock.BaseFileLock | None = None
        self._checkpoints: Checkpoints | None = None
        self._checkpointed: int | None = None
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
            write_description(self.folder.parent, self.source, self.config)

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

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        total_timesteps: int | None = None,
        source: EnvironmentSource | None = None,
        network: Any = None,
        trust: bool = False,
    ) -> Run:
        """The run in a folder as its newest whole checkpoint has it: `train` goes on as if it had never stopped.

        total_timesteps: train to that many steps instead; no other setting of a run can change
        source: the environment again, if it was made by a callable, or to choose where to find it
        network: the module or factory again, if it was one of the user's own
        trust: import the modules that the files name for the environment and its wrappers, and so run their code
        Raises RunError when there is nothing whole to go on from, or another process trains there.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"{folder} is no folder of a run; give one such as runs/CartPole-v1/default/seed-0.")
        for path in folder.iterdir():
            if path.is_symlink():
                raise RunError(f"{path} is a link, which is not followed out of a run's folder; remove it.")
        held = storage.lock(folder)
        try:
            found = Checkpoints(folder, 1).newest()
            config, seed, named = _described(folder, found.about)
            if total_timesteps is not None:
                config = config.override(total_timesteps=total_timesteps)
            where = allowed_source(source, named, config.wrapper, trust)
            if network is None and found.about.get("own_network"):
                raise RunError(f"The run in {folder} has a network of its maker's: give it again, network=...")
            run = cls(where, config, seed, None, network)
            try:
                run._take_up(folder, found)
            except BaseException:
                run.close()
                raise
        except BaseException:
            held.release()
            raise
        run._lock = held
        control.announce(folder)
        return run

    def _take_up(self, folder: Path, found: Checkpoint) -> None:
        """Go on from a checkpoint in this folder."""
        checkpoints = Checkpoints(folder, self.config.keep_checkpoints)
        checkpoints.adopt(found)
        try:
            checkpoints.restore_rows(found, self.replay)
            self._load_state(found.arrays)
            metrics = found.about["metrics"]
            size, sha256, elapsed = int(metrics["size"]), str(metrics["sha256"]), float(found.about["elapsed"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"The checkpoint {self.step:,} in {folder} does not fit its run: {error}.") from error
        self.folder, self._checkpoints, self._checkpointed = folder, checkpoints, self.step
        self.started = time.perf_counter() - elapsed
        self.metrics = JsonLines(folder / "metrics.jsonl", size, sha256)
        self._retake_episodes()
        if found.about["config"] != describe_run(self.source, self.config)["config"]:
            write_description(folder.parent, self.source, self.config)

    def _retake_episodes(self) -> None:
        """Bring the environments to where they were; an episode that does not repeat itself starts anew."""
        playing = self.vector.playing
        rows = self.vector.retake(playing)
        lost = [
            i for i, row in enumerate(rows) if differs(row, self.obs[i], None if self.mask is None else self.mask[i])
        ]
        if not lost:
            return
        for i in lost:
            playing[i] = Playing(playing[i].episode + 1)
            self.nstep.forget(i)
            self.episodes.forget(i)
        self.obs, self.mask = stack_retaken(self.vector.retake(playing))
        logger.warning(
            f"{self.name} does not repeat itself: the running episodes of environments {', '.join(map(str, lost))} "
            f"start anew at step {self.step:,}, so this run is no longer what it would have been."
        )
        if self.metrics is not None:
            self.metrics.write_lines({"step": self.step, "env": i, "resume/episode_lost": True} for i in lost)

    def state(self) -> dict[str, np.ndarray]:
        """All that the run goes on from, by name, but for the replay memory's rows."""
        playing = self.vector.playing
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "learner": self.agent.learner.state(),
            "replay": self.replay.state(),
            "nstep": self.nstep.state(),
            "episodes": self.episodes.state(),
            "playing": {
                "episode": np.array([each.episode for each in playing], np.int64),
                "length": np.array([len(each.actions) for each in playing], np.int64),
                "actions": np.array([action for each in playing for action in each.actions], np.int64),
            },
            "run": {
                "step": np.array(self.step),
                "updates": np.array(self.updates),
                "best": np.array(self.best),
                "random": generator_state(self.random),
                "obs": self.obs,
                **({} if self.mask is None else {"mask": self.mask}),
            },
        }
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def _load_state(self, state: Mapping[str, np.ndarray]) -> None:
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, array in state.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = array
        own = parts["run"]
        self.step, self.updates, self.best = int(own["step"]), int(own["updates"]), float(own["best"])
        if own["obs"].shape != self.obs.shape or own["obs"].dtype != self.obs.dtype:
            raise ValueError(f"its observations are {own['obs'].dtype} {own['obs'].shape}")
        self.obs, self.mask = own["obs"], own.get("mask")
        set_generator_state(self.random, own["random"])
        self.agent.learner.load_state(parts["learner"])
        self.replay.load_state(parts["replay"])
        self.nstep.load_state(parts["nstep"])
        self.episodes.load_state(parts["episodes"])
        playing = parts["playing"]
        actions = np.split(playing["actions"], np.cumsum(playing["length"])[:-1])
        self.vector.playing = [
            Playing(int(episode), taken.tolist()) for episode, taken in zip(playing["episode"], actions, strict=True)
        ]

    def checkpoint(self) -> None:
        """Write all that the run goes on from into its folder, if it has one.

        Where the disk does not take it, that is said, and the run goes on with the checkpoints that it has.
        """
        if self._checkpoints is None or self.metrics is None or self._checkpointed == self.step:
            return
        try:
            self.metrics.sync()
            about = {
                **describe_run(self.source, self.config),
                "schema": CHECKPOINT_SCHEMA,
                "seed": self.seed,
                "own_network": self.agent.has_own_network,
                "elapsed": time.perf_counter() - self.started,
                "metrics": {"size": self.metrics.size, "sha256": self.metrics.sha256},
            }
            self._checkpoints.save(self.step, about, self.state(), self.replay)
        except RunError as error:
            logger.warning(f"No checkpoint at step {self.step:,}: {error} Training goes on.")
            return
        self._checkpointed = self.step

    def keep_best(self, mean: float) -> None:
        """Keep the policy beside the last one if no evaluation before had so high a mean return."""
        if mean <= self.best:
            return
        self.best = mean
        if self.folder is not None:
            try:
                self.agent.save(self.folder / "best")
            except RunError as error:
                logger.warning(f"The best policy so far is not kept: {error} Training goes on.")

    def save(self) -> None:
        """Write the policy as it is now into the run's folder, if it has one."""
        if self.folder is not None:
            self.agent.save(self.folder / "policy")

    def save_result(self, result: dict[str, Any]) -> None:
        """Write result.json into the run's folder, if it has one."""
        if self.folder is not None:
            storage.write(self.folder / "result.json", json.dumps(result, indent=2).encode())

    def discard(self) -> None:
        """Take the folder of a run that never took a step away again, and the experiment's if it holds no other."""
        self.close()
        if self.folder is not None:
            remove_run(self.folder)

    def close(self) -> None:
        """Close the environments and the metrics file, and let go of the folder."""
        self.vector.close()
        if self.metrics is not None:
            self.metrics.close()
        if self._lock is not None:
            if self.folder is not None:
                control.withdraw(self.folder)
            self._lock.release()
            self._lock = None  # closed again, it leaves the next process's marker alone

    def _claim(self, folder: Path) -> None:
        """Make the folder of a new run; refuse one that another run has, or an experiment with other settings."""
        experiment = folder.parent / "config.json"
        refusal = RunError(
            f"{folder} already holds a run: go on with it (upright resume), or choose another seed (--seed) or folder "
            "(--out)."
        )
        if is_taken(folder):
            raise refusal
        if experiment.exists() and not is_same(experiment, self.source, self.config):
            raise RunError(
                f"{folder.parent} holds an experiment with another environment or other settings; "
                "choose another folder (--out)."
            )
        try:
            folder.mkdir(parents=True, exist_ok=folder.is_dir())
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}; choose another folder (--out).") from error
        self._lock = storage.lock(folder)
        if is_taken(folder):  # since we looked
            raise refusal
        try:
            self.metrics = JsonLines(folder / "metrics.jsonl")
            write_description(folder.parent, self.source, self.config)
            self._checkpoints = Checkpoints(folder, self.config.keep_checkpoints)
            control.announce(folder)
        except BaseException:
            self.close()
            remove_run(folder)
            raise


def _described(folder: Path, about: Mapping[str, Any]) -> tuple[Config, int, str | None]:
    """The settings, the seed and the environment's name that a checkpoint tells."""
    try:
        config, seed, env = Config.from_dict(about["config"]), about["seed"], about["env"]
    except (KeyError, TypeError, ValueError, AttributeError, UprightError) as error:
        raise RunError(f"The checkpoint in {folder} does not describe a run: {error}.") from error
    check_seed(seed)
    return config, seed, env
