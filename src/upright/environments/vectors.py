"""Several environments side by side. The only home of autoreset and truncation, and of lost workers.

A vector answers with an `Outcome`, in which no autoreset is left to think about, and knows of each environment which
episode it is in and by which actions: enough to take up a run again, or a lost worker's episode.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from upright.environments.actions import Actions
from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.environments.playing import Playing, RunningEpisodes
from upright.environments.sources import EnvironmentSource, quiet
from upright.environments.spaces import Observations
from upright.environments.worker import make_in_worker
from upright.errors import EnvironmentFault, EpisodesLost
from upright.messages import GUARD, logger
from upright.settings.config import Config

# What taking an episode again led to: the observation and mask, or None where the episode did not repeat itself.
Retaken = tuple[np.ndarray, np.ndarray | None] | None

LONGEST_PATIENCE = 2_000_000.0  # seconds


class Outcome(NamedTuple):
    """The result of one action in each of E environments.

    next_obs `[E, *shape]`: what followed the action; at an episode's end its last observation
    reward, terminated, truncated `[E]`: lists of plain numbers and bools, which cost less than arrays so short
    next_mask `[E, A]`: the actions allowed at next_obs, or None without masks
    obs, mask: what to act on next: next_obs, or the first observation of the next episode
    valid `[E]`: False where the environment was only reset, so that nothing here is a transition
    success `[E]`: where an episode ended, whether it succeeded; None elsewhere, and where its info does not say so
    """

    next_obs: np.ndarray
    reward: list[float]
    terminated: list[bool]
    truncated: list[bool]
    next_mask: np.ndarray | None
    obs: np.ndarray
    mask: np.ndarray | None
    valid: list[bool]
    success: list[bool | None]


class Vector(Protocol):
    """E environments side by side, each beginning its next episode by itself."""

    num_envs: int
    observations: Observations
    actions: Actions
    threshold: float | None
    playing: RunningEpisodes

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Begin the first episodes: `(obs [E, *shape], mask [E, A] or None)`."""

    def step(self, actions: np.ndarray) -> Outcome:
        """Take the actions numbered `[E]`."""

    def retake(self, playing: Sequence[Playing]) -> list[Retaken]:
        """Begin these episodes, one in each environment, and take their actions again."""

    def close(self) -> None:
        """Close the environments, and end their workers."""


class InProcess:
    """Environments stepped one after the other, without a vector's overhead.

    is_open: False after `close`
    """

    def __init__(self, environments: Sequence[Environment]) -> None:
        self.environments = list(environments)
        self.num_envs = len(self.environments)
        self.observations = self.environments[0].observations
        self.actions = self.environments[0].actions
        self.threshold = self.environments[0].threshold
        self.playing = RunningEpisodes([Playing(0)] * self.num_envs, self.actions.n)
        self._valid = [True] * self.num_envs
        self._no_success: list[bool | None] = [None] * self.num_envs
        self._obs: np.ndarray | None = None
        self._mask: np.ndarray | None = None
        self._has_lent, self.is_open = False, True

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        obs, infos = zip(*(environment.reset() for environment in self.environments), strict=True)
        self.playing.replace([Playing(environment.episode) for environment in self.environments])
        self._has_lent = False
        self._obs, self._mask = _stack(obs), _stack_masks(infos)
        return self._obs, self._mask

    def step(self, actions: np.ndarray) -> Outcome:
        if self._has_lent:
            self._take_back()
        rows, reward, terminated, truncated, infos = [], [], [], [], []
        numbers = actions.tolist()
        for environment, action in zip(self.environments, numbers, strict=True):
            row, gained, has_terminated, is_truncated, info = environment.step(action)
            rows.append(row)
            reward.append(gained)
            terminated.append(has_terminated)
            truncated.append(is_truncated)
            infos.append(info)
        next_obs, next_mask = _stack(rows), _stack_masks(infos)
        obs, mask, success = next_obs, next_mask, self._no_success
        if True in terminated or True in truncated:
            success = [info.get("is_success") for info in infos]
            for i, environment in enumerate(self.environments):
                if terminated[i] or truncated[i]:
                    rows[i], infos[i] = environment.reset()
            obs, mask = _stack(rows), _stack_masks(infos)
        self.playing.add(numbers, terminated, truncated)
        self._obs, self._mask = obs, mask
        return Outcome(next_obs, reward, terminated, truncated, next_mask, obs, mask, self._valid, success)

    def retake(self, playing: Sequence[Playing]) -> list[Retaken]:
        self.playing.replace(playing)
        self._has_lent = False
        self._obs = self._mask = None  # what was seen before is of other episodes
        rows = [environment.retake(playing) for environment in self.environments]
        if None not in rows:
            self._obs, self._mask = stack_retaken(rows)
        return rows

    @contextlib.contextmanager
    def lent(self, seed: int) -> Iterator[list[Environment]]:
        """Lend the first environment for evaluation episodes; the next step brings it back to its running episode."""
        first = self.environments[0]
        before = first.run_seed, first.index, first.episode
        first.run_seed, first.index = seed, EVALUATION_INDEX
        self._has_lent = True
        try:
            yield [first]
        finally:
            first.run_seed, first.index, first.episode = before

    def _take_back(self) -> None:
        """Bring the environment that was lent back to where it was."""
        self._has_lent = False
        first, mask = self.environments[0], None if self._mask is None else self._mask[0]
        row = first.retake(list(self.playing))
        if self._obs is None or differs(row, self._obs[0], mask):
            raise EpisodesLost(f"{first.name} does not repeat itself: its running episode was lost by an evaluation.")

    def close(self) -> None:
        self.is_open = False
        for environment in self.environments:
            environment.close()


class Vectorised:
    """One of Gymnasium's vectors over `Environment`s, in any of its autoreset modes.

    The modes differ in when an ended environment is reset: within the step that ended it (SAME_STEP), within the
    next one, whose action is ignored and which is no transition (NEXT_STEP), or when asked (DISABLED, asked here).
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any], observations: Observations, actions: Actions) -> None:
        self._vector = vector
        self.num_envs = vector.num_envs
        self.observations, self.actions = observations, actions
        self._mode = AutoresetMode(vector.metadata["autoreset_mode"])
        self._resetting = np.zeros(self.num_envs, bool)

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        obs, info = self._vector.reset()
        self._resetting[:] = False
        return obs, info.get("action_mask")

    def step(self, actions: np.ndarray) -> Outcome:
        """Take the actions numbered `[E]`."""
        return self.outcome(*self._vector.step(actions))

    def close(self) -> None:
        """Close the vector."""
        self._vector.close()

    def outcome(
        self, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, info: dict[str, Any]
    ) -> Outcome:
        """Return the outcome of the vector's step, without its autoreset."""
        mask = info.get("action_mask")
        next_obs, next_mask, valid = obs, mask, ~self._resetting
        ended = terminated | truncated
        last_info = info.get("final_info", {}) if self._mode == AutoresetMode.SAME_STEP else info
        success = self._success(last_info, ended)
        if self._mode == AutoresetMode.NEXT_STEP:
            self._resetting = ended
        elif ended.any() and self._mode == AutoresetMode.SAME_STEP:
            next_obs = obs.copy()
            next_obs[ended] = np.stack(info["final_obs"][ended])
            if mask is not None:
                next_mask = np.where(ended[:, None], info["final_info"]["action_mask"], mask)
        elif ended.any():
            first, first_info = self._vector.reset(options={"reset_mask": ended})
            obs = np.where(ended.reshape(-1, *[1] * (obs.ndim - 1)), first, obs)
            if mask is not None:
                mask = np.where(ended[:, None], first_info["action_mask"], mask)
        flags = terminated.tolist(), truncated.tolist()
        return Outcome(next_obs, reward.tolist(), *flags, next_mask, obs, mask, valid.tolist(), success)

    def _success(self, info: dict[str, Any], ended: np.ndarray) -> list[bool | None]:
        """Return for `[E]` whether the episode that ended succeeded, from the infos at the ends."""
        named = info.get("_is_success")
        if named is None:
            return [None] * self.num_envs
        succeeded = info["is_success"].tolist()
        return [value if has_it else None for value, has_it in zip(succeeded, (named & ended).tolist(), strict=True)]


class Workers:
    """An environment in each of E worker processes (Gymnasium's AsyncVectorEnv).

    A worker that died, or does not answer within `timeout` seconds, is replaced together with the others, up to
    `replacements` times: the new ones take the actions of their running episodes again and then the step that was lost.
    Raises EnvironmentFault when that does not help, and EpisodesLost when the environment does not repeat itself.
    """

    def __init__(
        self,
        thunks: Sequence[Callable[[], Environment]],
        first: Environment,
        timeout: float,
        replacements: int,
    ) -> None:
        self.num_envs = len(thunks)
        self.observations, self.actions, self.threshold = first.observations, first.actions, first.threshold
        self._thunks, self._name = thunks, first.name
        self._timeout, self._replacements, self._replaced = timeout, replacements, 0
        self.playing = RunningEpisodes([Playing(first.episode + 1)] * self.num_envs, self.actions.n)
        self._obs: np.ndarray | None = None
        self._mask: np.ndarray | None = None
        # True during a step, and after one that failed: workers that wait for each other can only be ended.
        self._waiting = False
        self._start()

    def _start(self) -> None:
        with quiet():
            try:
                self._async = AsyncVectorEnv(self._thunks, autoreset_mode=AutoresetMode.SAME_STEP)
            except (EOFError, ConnectionError) as error:
                guard = "" if multiprocessing.get_start_method() == "fork" else f"; {GUARD}"
                raise EnvironmentFault(
                    f"A worker process of {self._name} died as it began; run it with --vectorization-mode sync to see "
                    f"why{guard}."
                ) from error
        self._vector = Vectorised(self._async, self.observations, self.actions)

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        return stack_retaken(self.retake(list(self.playing)))

    def step(self, actions: np.ndarray) -> Outcome:
        while True:
            try:
                with self._answers("step"):
                    self._async.step_async(actions)
                    outcome = self._vector.outcome(*self._async.step_wait(self._timeout))
                break
            except _WorkerLost as lost:
                self._replace(lost)
        self.playing.add(actions.tolist(), outcome.terminated, outcome.truncated)
        self._obs, self._mask = outcome.obs, outcome.mask
        return outcome

    def retake(self, playing: Sequence[Playing]) -> list[Retaken]:
        self.playing.replace(playing)
        self._obs = self._mask = None  # what was seen before is of other episodes
        # Each takes as many steps as its episode has, and may take as long for each; the system waits 24 days at most.
        patience = min(self._timeout * (1 + max(len(each.actions) for each in playing)), LONGEST_PATIENCE)
        while True:
            try:
                with self._answers("retake"):
                    self._async.call_async("retake", list(self.playing))
                    rows = list(self._async.call_wait(patience))
                break
            except _WorkerLost as lost:
                self._replace(lost)
        if None not in rows:
            self._obs, self._mask = stack_retaken(rows)
        return rows

    def close(self) -> None:
        if not self._waiting:
            with quiet(), contextlib.suppress(EOFError, OSError):  # of workers that died: then the others are ended
                self._async.close()
                return
        for process in self._async.processes:
            process.kill()
        for process, pipe in zip(self._async.processes, self._async.parent_pipes, strict=True):
            process.join()
            if pipe is not None:
                pipe.close()
        self._async.closed = True

    @contextlib.contextmanager
    def _answers(self, doing: str) -> Iterator[None]:
        """Turn what Gymnasium raises for a worker that is dead or does not answer into _WorkerLost."""
        self._waiting = True
        with quiet():
            try:
                yield
            except multiprocessing.TimeoutError as error:
                silent = [i for i, pipe in enumerate(self._async.parent_pipes) if not pipe.poll()]
                which = ", ".join(map(str, silent)) or "?"
                raise _WorkerLost(f"worker {which} did not answer {doing} within {self._timeout:g} seconds") from error
            except (EOFError, ConnectionError) as error:
                raise _WorkerLost(self._say_who_died()) from error
        self._waiting = False

    def _say_who_died(self) -> str:
        for i, process in enumerate(self._async.processes):
            process.join(0.1)  # the pipe closes a moment before the process is gone
            if process.exitcode is not None:
                how = f"exit status {process.exitcode}"
                if process.exitcode < 0:
                    how = signal.Signals(-process.exitcode).name
                return f"worker {i} died ({how})"
        return "a worker closed its pipe"

    def _replace(self, lost: _WorkerLost) -> None:
        """Start new workers, and bring them to the same place in the same episodes."""
        self.close()
        self._replaced += 1
        if self._replaced > self._replacements:
            raise EnvironmentFault(
                f"{self._name}: {lost}, after {self._replacements} replacements; run it with --vectorization-mode sync "
                "to see why."
            ) from lost
        logger.warning(
            f"{self._name}: {lost}; the workers are replaced ({self._replaced} of {self._replacements} times)."
        )
        self._start()
        obs, mask = self._obs, self._mask
        if obs is not None and not repeats(self.retake(list(self.playing)), obs, mask):
            raise EpisodesLost(f"{self._name} does not repeat itself: its running episodes were lost with a worker.")


class _WorkerLost(Exception):
    """A worker process is dead, or does not answer."""


def stack_retaken(rows: Sequence[Retaken]) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that none of the environments failed to take again, as obs `[E, *shape]` and mask `[E, A]`."""
    obs, masks = zip(*(row for row in rows if row is not None), strict=True)
    return np.stack(obs), None if masks[0] is None else np.stack(masks)


def repeats(rows: Sequence[Retaken], obs: np.ndarray, mask: np.ndarray | None) -> bool:
    """True if the environments reached these observations and masks again, bit for bit."""
    return not any(differs(row, obs[i], None if mask is None else mask[i]) for i, row in enumerate(rows))


def differs(row: Retaken, obs: np.ndarray, mask: np.ndarray | None) -> bool:
    """True if an environment reached another observation or mask than before."""
    if row is None:
        return True
    bits = [None if each is None else each.tobytes() for each in (*row, obs, mask)]
    return bits[:2] != bits[2:]


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _stack_masks(infos: Sequence[dict[str, Any]]) -> np.ndarray | None:
    return _stack([info["action_mask"] for info in infos]) if infos and "action_mask" in infos[0] else None


def make_vector(source: EnvironmentSource, config: Config, run_seed: int, first_episode: int = 0) -> Vector:
    """Make all environments of a run, in this process or in workers."""
    first = make_environment(source, config, run_seed, 0, first_episode, notify=logger.warning)
    makers = [
        functools.partial(make_environment, source, config, run_seed, index, first_episode)
        for index in range(config.num_envs)
    ]
    if config.vectorization_mode == "sync":
        with contextlib.ExitStack() as made:  # closed again, where one of them cannot be made
            made.callback(first.close)
            environments = [first]
            for make in makers[1:]:
                environments.append(make())
                made.callback(environments[-1].close)
            made.pop_all()
        return InProcess(environments)
    try:
        first.reset()  # so that its user hears where masks are read; the workers begin this episode once more
    finally:
        first.close()
    first.episode = first_episode - 1
    in_workers = [functools.partial(make_in_worker, os.getpid(), make) for make in makers]
    return Workers(in_workers, first, config.worker_timeout, config.worker_replacements)
