"""A run: one configuration trained with one seed, in memory and, if it has a folder, on disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.agent import Agent, load
from upright.environments.sources import EnvironmentSource, describe
from upright.environments.vectors import InProcess, Outcome, differs, make_vector, stack_retaken
from upright.errors import Diverged, EnvironmentFault, EpisodesLost, SettingError, wrong
from upright.evaluation import (
    Evaluation,
    GreedyEpisode,
    check_request,
    check_seed,
    fresh_environments,
    greedy_episodes,
)
from upright.exploration import Repeats
from upright.learners import NetworkSource
from upright.messages import end_unguarded_process, logger
from upright.replay import NStep, ReplayMemory, check_memory, transition_forms
from upright.runs.description import describe_run
from upright.runs.disk import Disk, NoDisk, RunDisk
from upright.runs.metrics import EpisodeStatistics, Progress
from upright.runs.position import Position
from upright.runs.resume import ONLINE, Found, check_extension, find_run
from upright.runs.returns import DiscountedReturns
from upright.settings.config import Config
from upright.state import Part, join, split


class Run:
    """Everything that `train` advances.

    step, updates: counts so far · obs `[E, *shape]`, mask `[E, A]`: what the next actions answer
    disk: where it is kept, if it has a folder
    Warnings and notices go to the logger "upright".
    interrupted: True while a step is taken, and after one that was broken off, so that `train` has to `restart`
    stopping: True after `stop`, until the run is extended · is_closed: True after `close`
    best: the highest mean return of an evaluation so far
    Raises before anything is allocated or written when it could not work.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        config: Config,
        seed: int = 0,
        folder: Path | None = None,
        network: NetworkSource | None = None,
        parameters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`parameters`: those to be loaded. Raises Misfit, before a network is made, where they do not fit it."""
        end_unguarded_process()
        check_seed(seed)
        if not isinstance(config, Config):
            raise wrong("config", config, "an upright.Config, such as upright.Config(gamma=0.98)")
        folder = None if folder is None else files.as_path(folder)
        self.source, self.seed = source, int(seed)
        self.disk: RunDisk = NoDisk()
        self.interrupted = self.stopping = self.is_closed = False
        self.best = -math.inf
        self._first_episode = 0
        self.vector = make_vector(source, config, self.seed)
        try:
            self.obs, self.mask = self.vector.reset()
            self._build(config, network, parameters)
            if folder is not None:
                self.disk = Disk.claim(folder, source, config)
        except BaseException:
            self.close()
            raise
        self.step = self.updates = 0
        self.episodes = EpisodeStatistics(config.num_envs)
        self.started = time.perf_counter()

    def _build(
        self, config: Config, network: NetworkSource | None, parameters: Mapping[str, np.ndarray] | None
    ) -> None:
        vector = self.vector
        masked = None if self.mask is None else vector.actions.n
        self._forms = transition_forms(vector.observations.shape, vector.observations.dtype, masked)
        check_memory(config.buffer_size, self._forms)
        # Independent streams from one seed; the environments derive theirs from it by episode.
        acting, replay, learner = np.random.SeedSequence(self.seed).generate_state(3).tolist()
        self.random = np.random.default_rng(acting)
        self.agent = Agent(config, vector.observations, vector.actions, self.source, learner, network, parameters)
        if parameters is None and config.start_from is not None:
            self._start_from(config.start_from)
        self.replay = ReplayMemory(config.buffer_size, self._forms, replay, config.replay)
        self._begin_episodes()

    def _start_from(self, folder: str) -> None:
        """Begin with a saved policy's parameters, in the online network and in the target network."""
        agent = self.agent
        saved = load(folder, network=agent.learner.own_network())
        refusal = (
            f"start_from names the policy in {folder}, which does not fit here: {{}}; it needs the observations and "
            "actions, and the settings of the network (net_arch, activation, dueling, noisy, loss, …), that it was "
            "trained with."
        )
        if (problem := agent.reads_differently(saved)) is not None:
            raise SettingError(refusal.format(problem))
        try:
            agent.learner.load_parameters(saved.learner.parameters())
        except ValueError as error:
            raise SettingError(refusal.format(error)) from error
        if saved.observation_space != agent.observation_space:
            logger.warning(
                f"start_from: the policy was trained on observations of {saved.observation_space}, and here they are "
                f"of {agent.observation_space}; its parameters are taken as they are."
            )

    def _begin_episodes(self) -> None:
        """Forget what the steps so far left undone."""
        config, actions = self.config, self.vector.actions.n
        self.nstep = NStep(config.n_steps, config.gamma, config.num_envs, self._forms, actions, config.cut_n_steps)
        self.repeats = Repeats(config.exploration_repeat, config.num_envs, actions)
        self.returns = DiscountedReturns(config.loss.support, config.gamma, config.num_envs)

    @property
    def config(self) -> Config:
        """Every setting, resolved."""
        return self.agent.config

    @property
    def name(self) -> str:
        """The environment's name."""
        return describe(self.source)

    @property
    def folder(self) -> Path | None:
        """The run's folder, if it has one."""
        return self.disk.folder

    @property
    def checkpointed(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        return self.disk.checkpointed

    @property
    def parts(self) -> dict[str, Part]:
        """Everything that the run resumes from, by the names that checkpoints know, but for the memory's rows."""
        return {
            "learner": self.agent.learner,
            "replay": self.replay,
            "nstep": self.nstep,
            "repeats": self.repeats,
            "episodes": self.episodes,
            "playing": self.vector.playing,
            "run": Position(self),
        }

    def stop(self) -> None:
        """Let `train` end after the step that it is in."""
        self.stopping = True

    def extend(self, total_timesteps: int) -> None:
        """Train to that many steps instead, also after a stop; schedules that span the run stretch with it.

        Raises SettingError for fewer steps than were taken.
        """
        config = self.config.override(total_timesteps=total_timesteps)
        check_extension(config.total_timesteps, self.step)
        self.agent.config = config
        self.stopping = False
        self.disk.describe(self.source, self.config)

    def restart(self) -> None:
        """Begin new episodes where a fault or Ctrl-C broke the last ones off within a step.

        Their seeds follow those that any environment has used. What is learned and stored stays.
        """
        self.vector.close()
        self._first_episode += self.episodes.count + 1
        self.vector = make_vector(self.source, self.config, self.seed, self._first_episode)
        self.obs, self.mask = self.vector.reset()
        self._begin_episodes()
        self.episodes.forget_running()

    def take_step(self, action: np.ndarray) -> Outcome | None:
        """Take the actions `[E]`, and return what they led to; None where the running episodes were lost instead."""
        try:
            return self.vector.step(action)
        except EpisodesLost:
            self.retake_episodes()
            self.interrupted = False
            return None
        except EnvironmentFault:
            self.checkpoint()  # nothing of this step has been learned yet
            raise

    def advance(self, outcome: Outcome) -> range:
        """Move on to what the next actions answer; the numbers of the steps that were taken."""
        self.repeats.end(outcome)
        self.obs, self.mask = outcome.obs, outcome.mask
        before, self.step = self.step, self.step + sum(outcome.valid)
        self.episodes.add(self.step, outcome)
        self.returns.add(outcome)
        return range(before + 1, self.step + 1)

    def evaluate(self, episodes: int, seed: int = 0) -> Evaluation:
        """Run that many greedy episodes, where `greedy_episodes` plays them; see `Agent.evaluate`."""
        return Evaluation.of(self.greedy_episodes(episodes, seed), self.vector.threshold)

    def greedy_episodes(self, episodes: int, seed: int = 0) -> Generator[GreedyEpisode]:
        """Play that many greedy episodes, and yield each as it ends.

        In `n_eval_envs` fresh environments; if that is 0, in the run's own while it is open, which the next step brings
        back to the episode that it is training on.
        """
        agent, vector = self.agent, self.vector
        if self.config.n_eval_envs == 0 and isinstance(vector, InProcess) and vector.is_open:
            check_request(episodes, seed)
            where = vector.lent(seed)
        else:
            where = fresh_environments(agent.where_to_act(), self.config, episodes, seed, agent.spaces)
        with where as environments:
            yield from greedy_episodes(agent.greedy, environments, episodes)

    def report(self, metrics: dict[str, float]) -> Progress:
        """Return what happened since the last report, after writing it to the run's folder, if it has one."""
        progress = Progress(self.step, self.config.total_timesteps, self.episodes.take(), metrics)
        self.disk.write(progress)
        return progress

    def flush(self) -> None:
        """Write the episodes that ended since the last report, if the run has a folder."""
        if self.folder is not None and self.episodes.new:
            self.report({})

    def answer(self) -> None:
        """Do what another process asked of the run since its last report. Called where a step is complete."""
        request = self.disk.take_request()
        if request is not None:
            logger.info(f"Asked to {request} at step {self.step:,}.")
            if request == "stop":
                self.stop()
            self.checkpoint()

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        total_timesteps: int | None = None,
        source: EnvironmentSource | None = None,
        network: NetworkSource | None = None,
        trust: bool = False,
        config: Config | None = None,
    ) -> Run:
        """Return the run in a folder as its newest whole checkpoint has it: `train` resumes as if it had never stopped.

        total_timesteps: train to that many steps instead; no other setting of a run can change
        source: the environment again, if it was made by a callable, or to choose where to find it
        network: the module or factory again, if it was one of the user's own
        trust: import the modules that the files name for the environment and its wrappers, and so run their code; hand
        paths to them, and start as many environments as the files say
        config: the settings that the run has to have, but for `total_timesteps`, to which it trains; what they name is
        then named by the caller, and needs no trust
        Raises RunError when there is nothing whole to resume from, or another process trains there.
        """
        found = find_run(files.as_path(folder), total_timesteps, source, network is not None, trust, config)
        try:
            try:
                run = cls(found.source, found.config, found.seed, None, network, found.parameters)
            except ValueError as error:
                raise found.misfit(error) from error
            try:
                run._resume(found)
            except BaseException:
                run.close()
                raise
        except BaseException:
            found.lock.release()
            raise
        return run

    def _resume(self, found: Found) -> None:
        with found.fitting():
            found.restore_rows(self.replay.ring)
            self.load_state(found.checkpoint.arrays)
            if found.step != self.step:
                raise ValueError(f"its state is of step {self.step}")
            found.check_rows(self.replay.ring, self.vector.actions.n)
        self.disk = disk = Disk.reopen(found)
        self.started = time.perf_counter() - found.elapsed
        self.retake_episodes()
        if found.checkpoint.about["config"] != describe_run(self.source, self.config)["config"]:
            self.disk.describe(self.source, self.config)
            disk.checkpointed = None  # so that a run that was extended and is killed at once trains to its new end
            self.checkpoint()
        disk.announce()

    def retake_episodes(self) -> None:
        """Bring the environments to where they were; a new episode replaces one that does not repeat itself."""
        playing = self.vector.playing
        lost: set[int] = set()
        while True:
            rows = self.vector.retake(list(playing))
            differing = {
                i
                for i, row in enumerate(rows)
                if i not in lost and differs(row, self.obs[i], None if self.mask is None else self.mask[i])
            }
            if not differing:
                break
            # Once more, for all: the others were brought there again, and may repeat themselves only sometimes.
            for i in differing:
                for part in (playing, self.nstep, self.repeats, self.episodes):
                    part.forget(i)
            lost |= differing
        if not lost:
            return
        self.obs, self.mask = stack_retaken(rows)
        logger.warning(
            f"{self.name} does not repeat itself: the running episodes of environments "
            f"{', '.join(map(str, sorted(lost)))} begin again at step {self.step:,}, so this run is no longer what it "
            "would have been."
        )
        self.disk.write_lines({"step": self.step, "env": i, "resume/episode_lost": True} for i in sorted(lost))

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the run resumes from, by name, but for the replay memory's rows."""
        return join(self.parts)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError or KeyError for what it cannot have returned."""
        arrays = split(state)
        for name, part in self.parts.items():
            part.load_state(arrays.get(name, {}))

    def checkpoint(self) -> None:
        """Write everything that the run resumes from into its folder, if it has one.

        Where the disk does not take it, that is logged, and the run continues with the checkpoints that it has. Raises
        Diverged rather than write what is no longer a number.
        """
        if not self.disk.lacks(self.step):
            return
        state = self.state()
        self._check_finite(state)
        about = {
            **describe_run(self.source, self.config),
            "seed": self.seed,
            "own_network": self.agent.has_own_network,
            "elapsed": time.perf_counter() - self.started,
        }
        self.disk.checkpoint(self.step, about, state, self.replay.ring)

    def _check_finite(self, state: Mapping[str, np.ndarray]) -> None:
        """Refuse parameters that an update has just spoilt, which the next loss would show: resume needs good ones."""
        for name, array in state.items():
            if name.startswith(ONLINE) and array.dtype.kind == "f":
                # A network of the user's own may keep an infinity where it masks something, but never a nan.
                good = ~np.isnan(array) if self.agent.has_own_network else np.isfinite(array)
                if not good.all():
                    raise Diverged("A parameter", float(array[~good][0]))

    def keep_best(self, mean: float) -> None:
        """Keep the policy next to the last one if no evaluation before had so high a mean return."""
        if mean > self.best and self.disk.save_best(self.agent):
            self.best = mean

    def save(self) -> None:
        """Write the policy as it is now into the run's folder, if it has one."""
        self.disk.save(self.agent)

    def save_result(self, result: dict[str, Any]) -> None:
        """Write result.json into the run's folder, if it has one."""
        self.disk.save_result(result)

    def discard(self) -> None:
        """Remove the folder of a new run that never took a step, and the experiment's if it holds no other."""
        self.vector.close()
        self.disk.discard()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Let a copy, by `copy.deepcopy` or `pickle`, continue on environments of its own, and in no folder."""
        ring = self.replay.ring
        rows = ring.rows(ring.pushed - len(ring), ring.pushed) if len(ring) else {}
        network = self.agent.learner.own_network()
        return _copied, (self.source, self.config, self.seed, network, self._first_episode, self.state(), rows)

    def close(self) -> None:
        """Close the environments and the metrics file, and release the folder."""
        self.is_closed = True
        self.vector.close()
        self.disk.close()


def _copied(
    source: EnvironmentSource,
    config: Config,
    seed: int,
    network: NetworkSource | None,
    first_episode: int,
    state: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
) -> Run:
    """The run that `Run.__reduce__` took apart."""
    run = Run(source, config.override(start_from=None), seed, network=network)
    run.agent.config, run._first_episode = config, first_episode
    ring = run.replay.ring
    if rows:
        count = len(next(iter(rows.values())))
        ring.restore_rows(int(state["replay/pushed"]) - count, rows)
    run.load_state(state)
    run.retake_episodes()
    return run
