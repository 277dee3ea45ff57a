"""A run: one configuration trained with one seed, in memory and, if it has a folder, on disk.

runs/<env>/<experiment>/
  config.json             the environment and every setting, resolved
  seed-0/
    metrics.jsonl         append-only
    checkpoints/          all that the run goes on from (see `upright.runs.checkpoint`)
    policy/               what predict needs
    best/                 the same, of the best evaluation so far; with eval_freq
    result.json           the final evaluation
    lock                  held by the process that trains here
    running.json          which process that is, for whoever looks on (see `upright.runs.control`)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from upright import files
from upright.agent import Agent
from upright.environments.environment import Playing
from upright.environments.sources import EnvironmentSource, describe
from upright.environments.trust import allowed_source, named_environment
from upright.environments.vectors import differs, make_vector, stack_retaken
from upright.errors import Diverged, EnvironmentFault, RunError, UprightError
from upright.evaluation import check_seed
from upright.exploration import Repeats
from upright.machine import in_gib
from upright.messages import logger
from upright.replay import NStep, PrioritisedReplay, ReplayMemory, bytes_needed, check_memory, columns_for
from upright.runs import control
from upright.runs.checkpoint import CHECKPOINT_SCHEMA, Checkpoint, Checkpoints
from upright.runs.folders import describe_run, is_same, is_taken, remove_run, write_description, write_result
from upright.runs.metrics import EpisodeStatistics, JsonLines, Progress
from upright.settings.config import Config, Prioritised
from upright.state import check_counts, generator_state, set_generator_state

MOST_ENVIRONMENTS = 64  # and worker processes, that a file that is not trusted may start


class Run:
    """Everything that `train` advances.

    step, updates: counts so far · obs `[E, *shape]`, mask `[E, A]`: what the next actions answer
    folder: where it is kept, or None
    What its user should know goes to the logger "upright".
    interrupted: whether `train` was broken off in mid-step, so that it has to `restart`
    stopping: set it to let `train` end after the step that it is in
    best: the highest mean return of an evaluation so far · checkpointed: the newest checkpoint's step, or None
    Raises before anything is allocated or written when it could not work.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        config: Config,
        seed: int = 0,
        folder: Path | None = None,
        network: Any = None,
        parameters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`parameters`: those to be loaded. Raises ValueError, before a network is made, where they do not fit it."""
        check_seed(seed)
        self.source, self.config, self.seed, self.folder = source, config, int(seed), folder
        self.metrics: JsonLines | None = None
        self.interrupted = self.stopping = False
        self.best = -math.inf
        self._first_episode = 0
        self._lock: filelock.BaseFileLock | None = None
        self._checkpoints: Checkpoints | None = None
        self.checkpointed: int | None = None
        self._is_new = True  # and not opened: what it wrote is its own
        self.vector = make_vector(source, config, self.seed)
        try:
            self.obs, self.mask = self.vector.reset()
            self._build(network, parameters)
        except BaseException:
            self.close()
            raise
        self.step = self.updates = 0
        self.episodes = EpisodeStatistics(config.num_envs)
        self.started = time.perf_counter()

    def _build(self, network: Any, parameters: Mapping[str, np.ndarray] | None) -> None:
        config, vector = self.config, self.vector
        masked = None if self.mask is None else vector.actions.n
        columns = columns_for(vector.observations.shape, vector.observations.dtype, masked)
        needed = bytes_needed(config.buffer_size, columns)
        logger.info(f"The replay memory of {config.buffer_size:,} transitions takes {in_gib(needed)}.")
        check_memory(needed)
        # Independent streams from one seed; the environments derive theirs from it by episode.
        acting, replay, learner = np.random.SeedSequence(self.seed).generate_state(3).tolist()
        self.random = np.random.default_rng(acting)
        self.agent = Agent(config, vector.observations, vector.actions, self.source, learner, network, parameters)
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
        self._begin_episodes()
        if self.folder is not None:
            self._claim(self.folder)

    def _begin_episodes(self) -> None:
        """Forget what the steps so far left undone."""
        config = self.config
        self.nstep = NStep(config.n_steps, config.gamma, config.num_envs, config.cut_n_steps)
        self.repeats = Repeats(config.exploration_repeat, config.num_envs)

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
        self._begin_episodes()
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
        config: Config | None = None,
    ) -> Run:
        """The run in a folder as its newest whole checkpoint has it: `train` goes on as if it had never stopped.

        total_timesteps: train to that many steps instead; no other setting of a run can change
        source: the environment again, if it was made by a callable, or to choose where to find it
        network: the module or factory again, if it was one of the user's own
        trust: import the modules that the files name for the environment and its wrappers, and so run their code; hand
        paths to them, and start as many environments as the files say
        config: the settings that the run has to have, but for `total_timesteps`, to which it trains; what they name is
        then named by the caller, and needs no trust
        Raises RunError when there is nothing whole to go on from, or another process trains there.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"{folder} is no folder of a run; give one such as runs/CartPole-v1/default/seed-0.")
        try:
            within = list(folder.iterdir())
        except OSError as error:
            raise RunError(f"{folder} cannot be read: {error.strerror}.") from error
        for path in within:
            files.refuse_link(path)
        if not (folder / "checkpoints").is_dir():  # perhaps somebody else's folder: not even a lock is put there
            Checkpoints(folder, 1).newest()
        held = files.lock(folder)
        try:
            found = Checkpoints(folder, 1).newest()
            settings, seed, named = _described(folder, found.about)
            if config is not None:
                total_timesteps, trust = config.total_timesteps, True
            if total_timesteps is not None:
                settings = settings.override(total_timesteps=total_timesteps)
            if config not in (None, settings):
                raise RunError(f"The run in {folder} has other settings; choose another folder (--out).")
            where = allowed_source(source, named, settings, trust)
            if settings.num_envs > MOST_ENVIRONMENTS and not trust:
                raise EnvironmentFault(
                    f"The run in {folder} has {settings.num_envs:,} environments; if you trust its files to start so "
                    "many, say so: --trust, or trust=True."
                )
            if network is None and found.about.get("own_network"):
                raise RunError(f"The run in {folder} has a network of its maker's: give it again, network=...")
            of_learner = "learner/online/"
            parameters = {k.removeprefix(of_learner): v for k, v in found.arrays.items() if k.startswith(of_learner)}
            try:
                run = cls(where, settings, seed, None, network, parameters)
            except ValueError as error:
                raise RunError(f"The checkpoint in {folder} does not fit its run: {error}") from error
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
            self._check_rows(found)
            metrics = found.about["metrics"]
            size, sha256, elapsed = int(metrics["size"]), str(metrics["sha256"]), float(found.about["elapsed"])
            if not 0 <= size < 2**62 or not math.isfinite(elapsed):
                raise ValueError(f"its metrics have {size} bytes after {elapsed} seconds")
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise RunError(
                f"The checkpoint {found.about['step']:,} in {folder} does not fit its run: {error}."
            ) from error
        self.folder, self._checkpoints, self.checkpointed = folder, checkpoints, self.step
        self._is_new = False
        self.started = time.perf_counter() - elapsed
        self.metrics = JsonLines(folder / "metrics.jsonl", size, sha256)
        self.retake_episodes()
        if found.about["config"] != describe_run(self.source, self.config)["config"]:
            write_description(folder.parent, self.source, self.config)
            # So that a run that was extended and is killed at once goes on to its new end.
            self.checkpointed = None
            self.checkpoint()

    def _check_rows(self, found: Checkpoint) -> None:
        """Refuse a replay memory whose rows are not all there, or hold what is no action of this environment."""
        memory, segments = self.replay, found.segments
        if found.about["step"] != self.step:
            raise ValueError(f"its state is of step {self.step}")
        if len(memory) and not (segments and segments[-1].end == memory.pushed):
            raise ValueError(f"its segments do not end with transition {memory.pushed}")
        if len(memory) and segments[0].first > memory.pushed - len(memory):
            raise ValueError(f"its segments begin with transition {segments[0].first}")
        self._check_actions(memory.columns.action[: len(memory)])

    def _check_actions(self, actions: np.ndarray) -> None:
        if actions.dtype != np.int64 or ((actions < 0) | (actions >= self.vector.actions.n)).any():
            raise ValueError(f"not all of its actions are below {self.vector.actions.n}")

    def retake_episodes(self) -> None:
        """Bring the environments to where they were; an episode that does not repeat itself starts anew."""
        playing = self.vector.playing
        lost: set[int] = set()
        while True:
            rows = self.vector.retake(playing)
            differing = {
                i
                for i, row in enumerate(rows)
                if i not in lost and differs(row, self.obs[i], None if self.mask is None else self.mask[i])
            }
            if not differing:
                break
            # Once more, for all: the others were brought there again, and may repeat themselves only sometimes.
            for i in differing:
                playing[i] = Playing(playing[i].episode + 1)
                self.nstep.forget(i)
                self.repeats.forget(i)
                self.episodes.forget(i)
            lost |= differing
        if not lost:
            return
        self.obs, self.mask = stack_retaken(rows)
        logger.warning(
            f"{self.name} does not repeat itself: the running episodes of environments "
            f"{', '.join(map(str, sorted(lost)))} start anew at step {self.step:,}, so this run is no longer what it "
            "would have been."
        )
        if self.metrics is not None:
            self.metrics.write_lines({"step": self.step, "env": i, "resume/episode_lost": True} for i in sorted(lost))

    def state(self) -> dict[str, np.ndarray]:
        """All that the run goes on from, by name, but for the replay memory's rows."""
        playing = self.vector.playing
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "learner": self.agent.learner.state(),
            "replay": self.replay.state(),
            "nstep": self.nstep.state(),
            "repeats": self.repeats.state(),
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
        for name, like in {"obs": self.obs, **({} if self.mask is None else {"mask": self.mask})}.items():
            if own[name].shape != like.shape or own[name].dtype != like.dtype:
                raise ValueError(f"its {name} is {own[name].dtype} {own[name].shape}")
            waiting = parts["nstep"].get(name, like)
            if waiting.shape[1:] != like.shape[1:] or waiting.dtype != like.dtype:
                raise ValueError(f"its unfinished steps have a {name} {waiting.dtype} {waiting.shape}")
        if len(parts["nstep"]["env"]) and ("mask" in parts["nstep"]) != (self.mask is not None):
            raise ValueError("its unfinished steps have masks where the environment has none, or none where it has")
        check_counts("step", own["step"])
        check_counts("updates", own["updates"])
        self.step, self.updates, self.best = int(own["step"]), int(own["updates"]), float(own["best"])
        self.obs, self.mask = own["obs"], None if self.mask is None else own["mask"]
        set_generator_state(self.random, own["random"])
        self.agent.learner.load_state(parts["learner"])
        self.replay.load_state(parts["replay"])
        self.nstep.load_state(parts["nstep"])
        self._check_actions(parts["nstep"].get("action", np.zeros(0, np.int64)))
        if self.config.exploration_repeat is not None:
            self.repeats.load_state(parts["repeats"])
            self._check_actions(parts["repeats"]["action"])
        self.episodes.load_state(parts["episodes"])
        playing = parts["playing"]
        for name in ("episode", "length"):
            check_counts(name, playing[name], (self.vector.num_envs,))
        self._check_actions(playing["actions"])
        if playing["actions"].shape != (sum(playing["length"].tolist()),):
            raise ValueError("its running episodes do not have the actions that it holds")
        actions = np.split(playing["actions"], np.cumsum(playing["length"])[:-1])
        self.vector.playing = [
            Playing(int(episode), taken.tolist()) for episode, taken in zip(playing["episode"], actions, strict=True)
        ]

    def checkpoint(self) -> None:
        """Write all that the run goes on from into its folder, if it has one.

        Where the disk does not take it, that is said, and the run goes on with the checkpoints that it has. Raises
        Diverged rather than write what is no longer a number.
        """
        if self._checkpoints is None or self.metrics is None or self.checkpointed == self.step:
            return
        state = self.state()
        self._check_finite(state)
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
            self._checkpoints.save(self.step, about, state, self.replay)
        except (RunError, OSError) as error:
            logger.warning(f"No checkpoint at step {self.step:,}: {error} Training goes on.")
            return
        self.checkpointed = self.step

    def _check_finite(self, state: Mapping[str, np.ndarray]) -> None:
        """Refuse parameters that an update has just spoilt, which the next loss would show: resume needs good ones."""
        for name, array in state.items():
            if name.startswith("learner/online/") and array.dtype.kind == "f":
                # A network of the user's own may keep an infinity where it masks something, but never a nan.
                good = ~np.isnan(array) if self.agent.has_own_network else np.isfinite(array)
                if not good.all():
                    raise Diverged("A parameter", float(array[~good][0]))

    def keep_best(self, mean: float) -> None:
        """Keep the policy beside the last one if no evaluation before had so high a mean return."""
        if mean <= self.best:
            return
        if self.folder is not None:
            try:
                files.refuse_link(self.folder / "best")
                self.agent.save(self.folder / "best")
            except RunError as error:
                logger.warning(f"The best policy so far is not kept: {error} Training goes on.")
                return  # so that the next that is better than what is kept there can be
        self.best = mean

    def save(self) -> None:
        """Write the policy as it is now into the run's folder, if it has one."""
        if self.folder is not None:
            files.refuse_link(self.folder / "policy")
            self.agent.save(self.folder / "policy")

    def save_result(self, result: dict[str, Any]) -> None:
        """Write result.json into the run's folder, if it has one."""
        if self.folder is not None:
            write_result(self.folder, result)

    def discard(self) -> None:
        """Take the folder of a new run that never took a step away again, and the experiment's if it holds no other."""
        self.close()
        if self.folder is not None and self._is_new:
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
        files.refuse_link(folder)
        if is_taken(folder):
            raise refusal
        if experiment.exists() and not is_same(experiment, self.source, self.config):
            raise RunError(
                f"{folder.parent} holds an experiment with another environment or other settings; "
                "choose another folder (--out)."
            )
        try:
            files.make_folder(folder)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}; choose another folder (--out).") from error
        self._lock = files.lock(folder)
        if is_taken(folder):  # since we looked
            raise refusal
        try:
            control.announce(folder)  # before there is a file by which others find it
            self.metrics = JsonLines(folder / "metrics.jsonl")
            write_description(folder.parent, self.source, self.config)
            self._checkpoints = Checkpoints(folder, self.config.keep_checkpoints)
        except BaseException:
            self.close()
            remove_run(folder)
            raise


def _described(folder: Path, about: Mapping[str, Any]) -> tuple[Config, int, str | None]:
    """The settings, the seed and the environment's name that a checkpoint tells."""
    try:
        config, seed, env = Config.from_file(about["config"]), about["seed"], named_environment(about["env"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UprightError) as error:
        raise RunError(f"The checkpoint in {folder} does not describe a run: {error}.") from error
    check_seed(seed)
    return config, seed, env
