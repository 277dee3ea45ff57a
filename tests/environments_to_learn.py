"""Problems small enough to know the best policy and its values by hand."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from upright.environments.environment import episode_seed
from upright.evaluation import EVALUATION_INDEX


class Corridor(gymnasium.Env):
    """Places 0 … 5 in a row; action 1 leads right, 0 left. Each step costs 0.1, leaving at the right end brings 1."""

    LENGTH = 6

    def __init__(self) -> None:
        self.observation_space = spaces.Discrete(self.LENGTH)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(self.LENGTH)), 0
        return self.place, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.time += 1
        if action == 1 and self.place == self.LENGTH - 1:
            return self.place, 0.9, True, False, {}
        self.place = min(max(self.place + (1 if action == 1 else -1), 0), self.LENGTH - 1)
        return self.place, -0.1, False, self.time == 20, {}

    @classmethod
    def best_mean(cls, episodes: int) -> float:
        """The mean return of the best policy over the first evaluation episodes."""
        env, returns = cls(), []
        for episode in range(episodes):
            env.reset(seed=episode_seed(0, EVALUATION_INDEX, episode))
            returns.append(0.9 - 0.1 * (cls.LENGTH - 1 - env.place))
        return float(np.mean(returns))


class Memory(gymnasium.Env):
    """Three steps of reward 1 for the one allowed action; two others are forbidden everywhere."""

    def __init__(self) -> None:
        self.observation_space = spaces.Discrete(4)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return 0, {"action_mask": np.array([1, 0, 0], np.int8)}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert action == 0
        self.time += 1
        return self.time, 1.0, self.time == 3, False, {"action_mask": np.array([1, 0, 0], np.int8)}
