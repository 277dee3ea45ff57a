"""Greedy episodes on environments of their own, with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from upright.config import Config
from upright.envs import Environment, episode_seed, make_environment
from upright.sources import EnvironmentSource

# Stands where a training environment's index stands in `episode_seed`, so that no training episode is evaluated on.
EVALUATION_INDEX = 2**32 - 1
SIDE_BY_SIDE = 10

# Encoded observations [E, *shape] and masks [E, A] or None, to action numbers [E].
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


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
        """Whether the mean reaches the threshold; None without one."""
        return None if self.threshold is None else self.mean >= self.threshold

    def __str__(self) -> str:
        text = f"{self.mean:.2f} ± {self.std:.2f} over {len(self.returns)} greedy episodes"
        if self.threshold is None:
            return f"{text} (the environment names no threshold)"
        return f"{text}, {'solved' if self.solved else 'not solved'} (threshold {self.threshold:g})"


def evaluate(
    policy: Policy, source: EnvironmentSource, config: Config, episodes: int = 100, seed: int = 0
) -> Evaluation:
    """Run the policy for that many episodes, ten side by side.

    Episode k has a seed that depends on (seed, k) alone: two policies with the same evaluation seed meet the same
    episodes. Time limits hold as in training, so no policy can hang it.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, but an evaluation needs at least 1")
    count = min(episodes, SIDE_BY_SIDE)
    environments = [make_environment(source, config, seed, EVALUATION_INDEX) for _ in range(count)]
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    waiting = iter(range(count, episodes))
    try:
        running = [(k, environments[k], *_begin(environments[k], seed, k)) for k in range(count)]
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
                    still.append((following, environment, *_begin(environment, seed, following)))
            running = still
        spec = environments[0].unwrapped.spec
        threshold = None if spec is None else spec.reward_threshold
        return Evaluation(returns, lengths, None if threshold is None else float(threshold))
    finally:
        for environment in environments:
            environment.close()


def _begin(environment: Environment, seed: int, episode: int) -> tuple[np.ndarray, Any]:
    obs, info = environment.reset(seed=episode_seed(seed, EVALUATION_INDEX, episode))
    return obs, info.get("action_mask")
