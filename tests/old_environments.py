"""Environments of the package gym, one of each interface that it has had. To be imported where gym is installed."""

from __future__ import annotations

from typing import Any

import gym
import gymnasium
import numpy as np
from gym import spaces


class Oldest(gym.Env):
    """Of gym 0.21: `reset` returns an observation, `step` four values, and the method `seed` seeds."""

    metadata: dict[str, Any] = {"render.modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, size: int = 3) -> None:
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.size = size

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.random = np.random.default_rng(seed)
        return [seed]

    def observe(self) -> np.ndarray:
        return self.random.uniform(-1, 1, self.size).astype(np.float32)

    def reset(self) -> Any:
        self.time = 0
        return self.observe()

    def step(self, action: int) -> Any:
        assert action in self.action_space
        self.time += 1
        return self.observe(), float(self.random.normal()), self.time >= 5, {}

    def render(self, mode: str = "human") -> np.ndarray:
        assert mode == "rgb_array"
        return np.zeros((4, 5, 3), np.uint8)


class Generated(gym.Env):
    """Of gym 0.21, without the method `seed`: it draws from `np_random` and from its own spaces."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self) -> Any:
        self.time = 0
        return self.observation_space.sample()

    def step(self, action: int) -> Any:
        self.time += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.time >= 5, {}


class Middle(Oldest):
    """Of gym 0.22 to 0.25: `reset` takes a seed."""

    def reset(self, *, seed: int | None = None, return_info: bool = False, options: Any = None) -> Any:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.time = 0
        return self.observe()


class FiveValues(Middle):
    """As gym 0.25's own: an observation alone from `reset`, but five values from `step`."""

    def step(self, action: int) -> Any:
        observation, reward, done, info = super().step(action)
        return observation, reward, False, done, info


class Newest(gym.Env):
    """Of gym 0.26: with masks, and spaces of every kind."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Dict(
        one=spaces.Discrete(3), some=spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])))
    )
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def observe(self) -> Any:
        bits = self.np_random.integers(0, 2, 2).astype(np.int8)
        return {"one": int(self.np_random.integers(3)), "some": (bits, np.array([1, 2]))}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {"action_mask": np.array([1, 0, 1], np.int8)}

    def step(self, action: int) -> Any:
        assert action in (-1, 1), "the mask forbids 0"
        self.time += 1
        return self.observe(), 1.0, False, self.time >= 5, {"action_mask": np.array([1, 0, 1], np.int8)}

    def render(self) -> np.ndarray:
        return np.zeros((4, 5, 3), np.uint8)


class Mixed(gymnasium.Env):
    """Of Gymnasium, with spaces of gym."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: int) -> Any:
        self.time += 1
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), 1.0, self.time >= 5, False, {}


class NewSpaces(Oldest):
    """Of gym, with a space of Gymnasium."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(2)


class Spaceless(gym.Env):
    action_space = spaces.Discrete(2)


class Strange(Oldest):
    """Of gym, with an action space that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = (0, 1)


class Bare(Oldest):
    """Of gym, without metadata."""

    metadata: Any = None


gym.register("Oldest-v0", entry_point="old_environments:Oldest", max_episode_steps=3)
gym.register("Newest-v0", entry_point=Newest, max_episode_steps=3, reward_threshold=2.5)
gymnasium.register("OldInNew-v0", entry_point="old_environments:Oldest", max_episode_steps=4)
