"""One environment as the learner sees it. The only home of episode seeds.

`Environment` wraps what `upright.make` made: encoded observations out, numbered actions in, every episode with a seed
of its own, and every fault named where it happens. So an episode is a function of its seed and its actions, and can be
taken again.
"""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from upright.environments.actions import Actions
from upright.environments.claims import claim
from upright.environments.masks import Masks, observed_mask
from upright.environments.packages import spelled_out
from upright.environments.playing import Playing
from upright.environments.sources import EnvironmentSource, describe, make
from upright.environments.spaces import Observations
from upright.errors import EnvironmentFault, SpaceError
from upright.messages import first_line, logger
from upright.settings.config import Config

# Stands for an environment's index where a policy is evaluated, so that no training episode is evaluated on.
EVALUATION_INDEX = 2**32 - 1
FLAGS = (bool, np.bool_)
DEFAULT = Config()
# Python's message for a wrapper that unpacks too few or too many values, or one that has none.
UNPACKED = re.compile(r"values to unpack \(expected \d+(?:, got (\d+))?\)|cannot unpack non-iterable (\w+)")


def episode_seed(run_seed: int, index: int, episode: int) -> int:
    """The seed of one episode of one environment of one run: 32 bits, from NumPy's hash of the three."""
    return int(np.random.SeedSequence(run_seed, spawn_key=(index, episode)).generate_state(1)[0])


def encoding(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], config: Config
) -> tuple[Observations, Actions]:
    """How these settings encode an environment's observations, and number its actions. Raises SpaceError."""
    actions = Actions(action_space)
    mask_key = observed_mask(observation_space, actions, config.action_masks)
    keys, scale = config.observation_keys, config.scale_integers
    return Observations(observation_space, config.stretch_observations, scale, keys, mask_key), actions


class Environment(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """One environment with encoded observations, numbered actions, seeded episodes and named faults.

    reset() starts the next episode with the seed `episode_seed(run_seed, index, episode)`, from which the environment's
    spaces are seeded, too. Observations are `Observations.encode`d, actions are numbers 0 … n−1, and info holds nothing
    but "action_mask" (bool `[n]`), if the environment has masks, and at the end of an episode "is_success" (bool), if
    the environment names it. Every fault is an EnvironmentFault that names environment, episode, step and field; one of
    close() is only logged.
    notify: told what its user should know of how the environment is read (see `upright.make`)
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        run_seed: int,
        index: int,
        config: Config = DEFAULT,
        first_episode: int = 0,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(env)
        self.name, self.run_seed, self.index = name, run_seed, index
        self._release = claim(self, env, name)
        self._spaces = _own_spaces(env)
        self.observations, self.actions = encoding(env.observation_space, env.action_space, config)
        self.observation_space = (
            spaces.Box(0, 255, self.observations.shape, np.uint8)
            if self.observations.dtype == np.uint8
            else spaces.Box(-np.inf, np.inf, self.observations.shape, np.float32)
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(self.actions.n)
        self.episode = first_episode - 1
        self.episode_step = 0
        self.masks = Masks(env, self.actions, config.action_masks, self.observations.mask_key)
        self._chose_masks = False
        self._notify = notify
        for notice in self.observations.notices():
            notify(notice)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the next episode, with its own seed unless another is given."""
        self.episode += 1
        self.episode_step = 0
        if seed is None:
            seed = episode_seed(self.run_seed, self.index, self.episode)
        for number, space in enumerate(self._spaces, start=1):
            # Not the environment's own seed: its draws are to be others. Through the class, for some environments
            # replace the method `seed` of their spaces with the number.
            type(space).seed(space, (seed + number) % 2**32)
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault(raised("reset", error)) from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise self._fault(f"reset() returned {_shape_of(result)}, not (observation, info)")
        observation, info = result
        if not self._chose_masks:
            self._chose_masks = True
            self._choose_masks(info)
        return self._encode(observation), self._masks(info, observation, ended=False)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take the action with this number."""
        self.episode_step += 1
        try:
            result = self.env.step(self.actions.decode(int(action)))
        except Exception as error:
            raise self._fault(raised("step", error)) from error
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
        ended = bool(terminated or truncated)
        kept = self._masks(info, observation, ended)
        if ended:
            kept |= _success(info)
        return self._encode(observation), reward, bool(terminated), bool(truncated), kept

    def retake(self, playing: Sequence[Playing]) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Begin the index-th of these episodes and take its actions again: the observation and mask that this led to.

        None where it ended or failed before, which shows that the environment does not repeat itself.
        """
        mine = playing[self.index]
        try:
            self.episode = mine.episode - 1
            observation, info = self.reset()
            for action in mine.actions:
                observation, _, terminated, truncated, info = self.step(action)
                if terminated or truncated:
                    return None
        except EnvironmentFault:
            if not mine.actions:  # an episode that is new was not taken before
                raise
            return None
        return observation, info.get("action_mask")

    @property
    def threshold(self) -> float | None:
        """The mean return at which its registration counts it as solved, or None."""
        threshold = getattr(getattr(self.unwrapped, "spec", None), "reward_threshold", None)
        return None if threshold is None else float(threshold)

    def _encode(self, observation: Any) -> np.ndarray:
        try:
            return self.observations.encode(observation)
        except (ValueError, TypeError) as error:
            raise self._fault(str(error)) from error

    def _number(self, reward: Any) -> float:
        if isinstance(reward, np.ndarray) and reward.size == 1:
            reward = reward.item()
        if isinstance(reward, np.ndarray) and reward.dtype.kind in "biuf":
            raise self._fault(
                f"the reward has {reward.size} numbers, one for each of several objectives",
                "weigh them into one with a wrapper, such as --wrapper mo_gymnasium.wrappers:LinearReward",
            )
        if not isinstance(reward, (numbers.Real, np.bool_)):
            raise self._fault(f"the reward is {reward!r}, not a number")
        return float(reward)

    def _choose_masks(self, info: Any) -> None:
        try:
            notice = self.masks.choose(info if isinstance(info, dict) else {})
        except ValueError as error:
            raise self._fault(str(error)) from error
        if notice is not None:
            self._notify(notice)

    def _masks(self, info: Any, observation: Any, ended: bool) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._fault(f"info is {info!r}, not a dict")
        try:
            mask = self.masks.read(info, observation, ended)
        except ValueError as error:
            raise self._fault(str(error)) from error
        return {} if mask is None else {"action_mask": mask}

    def close(self) -> None:
        """Close the environment; that it cannot be closed is logged, and loses nothing."""
        self._release()
        try:
            super().close()
        except Exception as error:
            logger.warning(f"{self.name}: close() raised {type(error).__name__}: {first_line(error)}")

    def _fault(self, what: str, remedy: str = "fix the environment") -> EnvironmentFault:
        place = "evaluation" if self.index == EVALUATION_INDEX else f"environment {self.index}"
        return EnvironmentFault(
            f"{self.name} ({place}), episode {self.episode}, step {self.episode_step}: {what}; {remedy}."
        )


def _success(info: dict[str, Any]) -> dict[str, bool]:
    """Return what an episode's last info says of its success; nothing where that is neither a bool nor a number."""
    value = info.get("is_success")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, (numbers.Real, np.bool_)) or math.isnan(value):
        return {}
    return {"is_success": bool(value)}


def _shape_of(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"


def raised(method: str, error: Exception) -> str:
    """Say what a method raised; for a wrapper of Gymnasium's that unpacked what it returned, say what that was."""
    count = {"reset": 2, "step": 5}[method]
    what = "(observation, info)" if method == "reset" else "(observation, reward, terminated, truncated, info)"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = "" if place is None else str(place.tb_frame.f_globals.get("__name__"))
    unpacked = UNPACKED.search(str(error))
    if unpacked is None or not module.startswith("gymnasium."):
        return f"{method}() raised {type(error).__name__}: {first_line(error)}"
    got, kind = unpacked.groups()
    returned = f"a {kind}" if kind else f"{got} values" if got else f"more than {count} values"
    return f"{method}() returned {returned}, not {what}"


def _own_spaces(env: gymnasium.Env[Any, Any]) -> list[spaces.Space[Any]]:
    """The spaces of an environment and its wrappers, of which none is another environment's, too.

    An environment that samples from them draws from generators of theirs; a space that all objects of a class share
    would draw what another one, in an evaluation beside, left it.
    """
    for name in ("observation_space", "action_space"):
        with contextlib.suppress(AttributeError):  # of a property that cannot be set
            setattr(env.unwrapped, name, copy.deepcopy(getattr(env.unwrapped, name)))
    own: dict[int, spaces.Space[Any]] = {}
    layer: Any = env
    while True:
        for space in (layer.observation_space, layer.action_space):
            own[id(space)] = space
        if not isinstance(layer, gymnasium.Wrapper):
            return list(own.values())
        layer = layer.env


def make_environment(
    source: EnvironmentSource,
    config: Config,
    run_seed: int,
    index: int,
    first_episode: int = 0,
    render_mode: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Environment:
    """The index-th environment of a run, whose first reset begins the episode of that number.

    notify: told what its user should know (see `upright.make`); of a run's environments only the first's is
    """
    env = make(source, config, render_mode, notify)
    try:
        return Environment(env, describe(source), run_seed, index, config, first_episode, notify)
    except EnvironmentFault:  # what another place uses is not to be closed here
        raise
    except BaseException as error:
        env.close()
        if isinstance(error, SpaceError):
            raise SpaceError(f"{spelled_out(describe(source))}: {error}") from error
        raise
