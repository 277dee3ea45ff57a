"""Greedy episodes on environments of their own, with seeds of their own."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.environments.sources import EnvironmentSource
from upright.errors import EnvironmentFault, SettingError
from upright.settings.config import Config

SIDE_BY_SIDE = 10
MOST_EPISODES = 1_000_000

# Encoded observations [E, *shape] and masks [E, A] or None, to action numbers [E].
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
# An environment's observation space and action space.
Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths `[episodes]` of greedy episodes, in the order of their seeds.

    threshold: the environment's own `reward_threshold`, or None
    """

    returns: np.ndarray
    lengths: np.ndarray
    threshold: float | None

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """The population standard deviation of the returns, as SB3 reports it."""
        return float(self.returns.std())

    @property
    def solved(self) -> bool | None:
        """True if the mean reaches the threshold; None without one."""
        return None if self.threshold is None else self.mean >= self.threshold

    def __str__(self) -> str:
        text = f"{self.mean:.2f} ± {self.std:.2f} over {len(self.returns)} greedy episodes"
        if self.threshold is None:
            return f"{text} (the environment names no threshold)"
        return f"{text}, {'solved' if self.solved else 'not solved'} (threshold {self.threshold:g})"


def evaluate(
    policy: Policy,
    source: EnvironmentSource,
    config: Config,
    episodes: int = 100,
    seed: int = 0,
    expected: Spaces | None = None,
) -> Evaluation:
    """Run the policy for that many episodes, ten side by side.

    Episode k has a seed that depends on (seed, k) alone: two policies with the same evaluation seed meet the same
    episodes. Time limits hold as in training, so no policy can hang it. Raises EnvironmentFault where the environment
    has not the expected spaces.
    """
    check_request(episodes, seed)
    count = min(episodes, SIDE_BY_SIDE)
    environments = [make_environment(source, config, seed, EVALUATION_INDEX) for _ in range(count)]
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    waiting = iter(range(count, episodes))
    try:
        check_spaces(environments[0], expected)
        running = [(k, environments[k], *begin(environments[k], k)) for k in range(count)]
        while running:
            obs = np.stack([each[2] for each in running])
            masks = [each[3] for each in running]
            actions = policy(obs, None if masks[0] is None else np.stack(masks))
            still = []
            for (k, environment, _, _), action in zip(running, actions, strict=True):
                next_obs, reward, terminated, truncated, info = environment.step(action)
                returns[k] += reward
                lengths[k] += 1
                if not (terminated or truncated):
                    still.append((k, environment, next_obs, info.get("action_mask")))
                elif (following := next(waiting, None)) is not None:
                    still.append((following, environment, *begin(environment, following)))
            running = still
        spec = environments[0].unwrapped.spec
        threshold = None if spec is None else spec.reward_threshold
        return Evaluation(returns, lengths, None if threshold is None else float(threshold))
    finally:
        for environment in environments:
            environment.close()


def begin(environment: Environment, episode: int) -> tuple[np.ndarray, Any]:
    """Start the evaluation episode of that number: its first observation and mask."""
    environment.episode = episode - 1
    obs, info = environment.reset()
    return obs, info.get("action_mask")


def check_spaces(environment: Environment, expected: Spaces | None) -> None:
    """Refuse an environment whose observation or action space is not the policy's."""
    found = (environment.observations.space, environment.actions.space)
    if expected is not None and found != expected:
        raise EnvironmentFault(
            f"{environment.name} does not fit this policy: it has {found[0]} and {found[1]}, the policy "
            f"{expected[0]} and {expected[1]}; give the environment that it was trained on."
        )


def check_request(episodes: int, seed: Any) -> None:
    """Refuse a number of episodes below 1 or beyond all use, or what is no seed."""
    if episodes < 1:
        raise SettingError(f"episodes is {episodes}, but it has to be 1 or more.")
    if episodes > MOST_EPISODES:
        raise SettingError(f"episodes is {episodes}, but it has to be {MOST_EPISODES} or fewer.")
    check_seed(seed)


def check_seed(seed: Any) -> int:
    """Return a seed; refuse one that is not a whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise SettingError(f"seed is {seed!r}, but it has to be a whole number, 0 or more.")
    return int(seed)
