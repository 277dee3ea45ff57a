"""Environments as the learner sees them. The only home of autoreset, truncation and episode seeds.

`Environment` wraps what `upright.sources.make` made: encoded observations out, numbered actions in, every episode with
a seed of its own, and every fault named where it happens. A vector (`InProcess`, or `Vectorised` over Gymnasium's)
steps several of them side by side and answers with an `Outcome`, in which no autoreset is left to think about.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import numbers
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from upright.config import Config
from upright.errors import EnvironmentFault
from upright.sources import EnvironmentSource, describe, first_line, make, quiet
from upright.spaces import Actions, Observations

# Stands for an environment's index where a policy is evaluated, so that no training episode is evaluated on.
EVALUATION_INDEX = 2**32 - 1
FLAGS = (bool, np.bool_)


def episode_seed(run_seed: int, index: int, episode: int) -> int:
    """The seed of one episode of one environment of one run: 32 bits, from NumPy's hash of the three."""
    return int(np.random.SeedSequence(run_seed, spawn_key=(index, episode)).generate_state(1)[0])


class Environment(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """One environment with encoded observations, numbered actions, seeded episodes and named faults.

    reset() starts the next episode with the seed `episode_seed(run_seed, index, episode)`. Observations are
    `Observations.encode`d, actions are numbers 0 … n−1, and info holds nothing but "action_mask" (bool `[n]`), if
    the environment has masks. Every fault is an EnvironmentFault that names environment, episode, step and field.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], name: str, run_seed: int, index: int, first_episode: int = 0
    ) -> None:
        super().__init__(env)
        self.name, self.run_seed, self.index = name, run_seed, index
        self.observations = Observations(env.observation_space)
        self.actions = Actions(env.action_space)
        self.observation_space = (
            spaces.Box(0, 255, self.observations.shape, np.uint8)
            if self.observations.dtype == np.uint8
            else spaces.Box(-np.inf, np.inf, self.observations.shape, np.float32)
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(self.actions.n)
        self.episode = first_episode - 1
        self.episode_step = 0
        self.has_masks: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the next episode, with its own seed unless another is given."""
        self.episode += 1
        self.episode_step = 0
        if seed is None:
            seed = episode_seed(self.run_seed, self.index, self.episode)
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault(f"reset() raised {type(error).__name__}: {first_line(error)}") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise self._fault(f"reset() returned {_shape_of(result)}, not (observation, info)")
        observation, info = result
        if self.has_masks is None:
            self.has_masks = isinstance(info, dict) and "action_mask" in info
        return self._encode(observation), self._masks(info, ended=False)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take the action with this number."""
        self.episode_step += 1
        try:
            result = self.env.step(self.actions.decode(int(action)))
        except Exception as error:
            raise self._fault(f"step() raised {type(error).__name__}: {first_line(error)}") from error
        if not (isinstance(result, tuple) and len(result) == 5):
            raise self._fault(
                f"step() returned {_shape_of(result)}, not (observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, info = result
        if type(reward) is not float:
            reward = self._number(reward)
        if not math.isfinite(reward):
            raise self._fault(f"the reward is {reward}")
        if not isinstance(terminated, FLAGS):
            raise self._fault(f"terminated is {terminated!r}, not True or False")
        if not isinstance(truncated, FLAGS):
            raise self._fault(f"truncated is {truncated!r}, not True or False")
        return (
            self._encode(observation),
            reward,
            bool(terminated),
            bool(truncated),
            self._masks(info, ended=bool(terminated or truncated)),
        )

    def _encode(self, observation: Any) -> np.ndarray:
        try:
            return self.observations.encode(observation)
        except (ValueError, TypeError) as error:
            raise self._fault(str(error)) from error

    def _number(self, reward: Any) -> float:
        if isinstance(reward, np.ndarray) and reward.size == 1:
            reward = reward.item()
        if not isinstance(reward, (numbers.Real, np.bool_)):
            raise self._fault(f"the reward is {reward!r}, not a number")
        return float(reward)

    def _masks(self, info: Any, ended: bool) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._fault(f"info is {info!r}, not a dict")
        if not self.has_masks:
            return {}
        if "action_mask" not in info:
            raise self._fault("info has no 'action_mask', though it had one at the first reset")
        try:
            mask = self.actions.mask(info["action_mask"])
        except (ValueError, TypeError) as error:
            raise self._fault(str(error)) from error
        if not mask.any():
            if not ended:
                raise self._fault("info['action_mask'] forbids every action")
            mask[:] = True  # no action follows the end, so no choice is lost, and no maximum is over nothing
        return {"action_mask": mask}

    def _fault(self, what: str) -> EnvironmentFault:
        place = "evaluation" if self.index == EVALUATION_INDEX else f"environment {self.index}"
        return EnvironmentFault(
            f"{self.name} ({place}), episode {self.episode}, step {self.episode_step}: {what}; mend the environment."
        )


def _shape_of(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"


class Outcome(NamedTuple):
    """What one action in each of E environments led to.

    next_obs `[E, *shape]`: what followed the action; at an episode's end its last observation
    reward, terminated, truncated `[E]`: lists of plain numbers and bools, which cost less than arrays so short
    next_mask `[E, A]`: the actions allowed at next_obs, or None without masks
    obs, mask: what to act on next: next_obs, or the first observation of the next episode
    valid `[E]`: False where the environment was only reset, so that nothing here is a transition
    """

    next_obs: np.ndarray
    reward: list[float]
    terminated: list[bool]
    truncated: list[bool]
    next_mask: np.ndarray | None
    obs: np.ndarray
    mask: np.ndarray | None
    valid: list[bool]


class Vector(Protocol):
    """E environments side by side, each beginning its next episode by itself."""

    num_envs: int
    observations: Observations
    actions: Actions

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Begin the first episodes: `(obs [E, *shape], mask [E, A] or None)`."""

    def step(self, actions: np.ndarray) -> Outcome:
        """Take the actions numbered `[E]`."""

    def close(self) -> None:
        """Close the environments, and end their workers."""


class InProcess:
    """Environments stepped one after the other, without a vector's overhead."""

    def __init__(self, environments: Sequence[Environment]) -> None:
        self.environments = list(environments)
        self.num_envs = len(self.environments)
        self.observations = self.environments[0].observations
        self.actions = self.environments[0].actions
        self._valid = [True] * self.num_envs

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        obs, infos = zip(*(environment.reset() for environment in self.environments), strict=True)
        return _stack(obs), _stack_masks(infos)

    def step(self, actions: np.ndarray) -> Outcome:
        rows, reward, terminated, truncated, infos = [], [], [], [], []
        for environment, action in zip(self.environments, actions.tolist(), strict=True):
            row, gained, has_terminated, is_truncated, info = environment.step(action)
            rows.append(row)
            reward.append(gained)
            terminated.append(has_terminated)
            truncated.append(is_truncated)
            infos.append(info)
        next_obs, next_mask = _stack(rows), _stack_masks(infos)
        obs, mask = next_obs, next_mask
        if True in terminated or True in truncated:
            for i, environment in enumerate(self.environments):
                if terminated[i] or truncated[i]:
                    rows[i], infos[i] = environment.reset()
            obs, mask = _stack(rows), _stack_masks(infos)
        return Outcome(next_obs, reward, terminated, truncated, next_mask, obs, mask, self._valid)

    def close(self) -> None:
        for environment in self.environments:
            environment.close()


class Vectorised:
    """One of Gymnasium's vectors over `Environment`s, in any of its autoreset modes.

    The modes differ in when an ended environment is reset: within the step that ended it (SAME_STEP), within the
    next one, whose action is ignored and which is no transition (NEXT_STEP), or when asked (DISABLED, asked here).
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        observations: Observations,
        actions: Actions,
        name: str = "The environment",
    ) -> None:
        self._vector, self._name = vector, name
        self.num_envs = vector.num_envs
        self.observations, self.actions = observations, actions
        self._mode = AutoresetMode(vector.metadata["autoreset_mode"])
        self._resetting = np.zeros(self.num_envs, bool)
        # True after a fault or Ctrl-C in the midst of a step: workers that wait for each other can only be ended.
        self._waiting = False

    def reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        with quiet(), _workers(self._name):
            obs, info = self._vector.reset()
        self._resetting[:] = False
        return obs, info.get("action_mask")

    def step(self, actions: np.ndarray) -> Outcome:
        with quiet(), _workers(self._name):
            self._waiting = True
            obs, reward, terminated, truncated, info = self._vector.step(actions)
            mask = info.get("action_mask")
            next_obs, next_mask, valid = obs, mask, ~self._resetting
            ended = terminated | truncated
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
            self._waiting = False
        flags = terminated.tolist(), truncated.tolist()
        return Outcome(next_obs, reward.tolist(), *flags, next_mask, obs, mask, valid.tolist())

    def close(self) -> None:
        with quiet(), contextlib.suppress(EOFError, OSError):  # of workers that died
            self._vector.close(terminate=self._waiting)


@contextlib.contextmanager
def _workers(name: str) -> Iterator[None]:
    """Name the environment whose worker process ended without a word."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise EnvironmentFault(
            f"A worker process of {name} died; run it with --vectorization-mode sync to see why."
        ) from error


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _stack_masks(infos: Sequence[dict[str, Any]]) -> np.ndarray | None:
    return _stack([info["action_mask"] for info in infos]) if infos and infos[0] else None


def make_environment(
    source: EnvironmentSource,
    config: Config,
    run_seed: int,
    index: int,
    first_episode: int = 0,
    render_mode: str | None = None,
) -> Environment:
    """The index-th environment of a run, whose first reset begins the episode of that number."""
    # A worker leaves Ctrl-C to the process that trains, which closes its workers. It is known by the name that
    # Gymnasium gives it: the process that trains also makes an environment by this function, for its spaces.
    if multiprocessing.current_process().name.startswith("Worker<"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = make(source, config, render_mode, notify=lambda _: None)  # who made the first one was told
    return Environment(env, describe(source), run_seed, index, first_episode)


def make_vector(source: EnvironmentSource, config: Config, run_seed: int, first_episode: int = 0) -> Vector:
    """All environments of a run, in this process or in workers."""
    name = describe(source)
    first = Environment(make(source, config), name, run_seed, 0, first_episode)
    thunks = [
        functools.partial(make_environment, source, config, run_seed, index, first_episode)
        for index in range(config.num_envs)
    ]
    if config.vectorization_mode == "sync":
        return InProcess([first, *(thunk() for thunk in thunks[1:])])
    first.close()
    with quiet(), _workers(name):
        vector = AsyncVectorEnv(thunks, autoreset_mode=AutoresetMode.SAME_STEP)
    return Vectorised(vector, first.observations, first.actions, name)
