"""Environments made for the tests: scripted episodes, faults, masks, and every kind of space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Scripted(gymnasium.Env):
    """Plays given episodes over and over: each a list of rewards and whether its end is a termination.

    The observation is [episode, step]; the action changes nothing. successes: what info["is_success"] is at the end of
    an episode, over and over; None where it is not there. Before the end it is False.
    """

    def __init__(
        self, episodes: list[tuple[list[float], bool]], masks: bool = False, successes: Sequence[Any] = (None,)
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.episodes, self.masks, self.successes = episodes, masks, successes
        self.episode, self.time = -1, 0
        self.seeds: list[int | None] = []

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        info = {"action_mask": np.array([1, self.time % 2, (self.time + 1) % 2], np.int8)} if self.masks else {}
        return np.array([self.episode, self.time], np.float32), info

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rewards, terminates = self.episodes[self.episode % len(self.episodes)]
        reward = rewards[self.time]
        self.time += 1
        ended = self.time == len(rewards)
        obs, info = self._observe()
        success = self.successes[self.episode % len(self.successes)]
        if success is not None:
            info["is_success"] = success if ended else False
        return obs, reward, ended and terminates, ended and not terminates, info


class Noisy(gymnasium.Env):
    """Every observation is drawn from the environment's own generator, so a seed shows in all that follows it."""

    def __init__(self, length: int = 7) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(4, start=5)
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert 5 <= action < 9
        self.time += 1
        ended = self.time >= self.length + int(self.np_random.integers(3))
        reward = float(self.np_random.normal()) + action
        return self.np_random.normal(size=3).astype(np.float32), reward, ended, False, {}


class Masked(gymnasium.Env):
    """Raises when an action is taken that the last mask forbade. Masks are drawn at random."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (5,), np.float32)
        self.action_space = spaces.Discrete(5)

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.mask = self.np_random.random(5) < 0.4
        self.mask[self.np_random.integers(5)] = True
        return self.np_random.random(5).astype(np.float32), {"action_mask": self.mask.astype(np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.mask[action]:
            raise AssertionError(f"action {action} is forbidden by {self.mask}")
        self.time += 1
        obs, info = self._observe()
        # The forbidden actions look best: a target or a choice that ignores the mask would want them.
        return obs, float(action), self.time == 20, False, info


class Faulty(gymnasium.Env):
    """Does one thing wrong at its third step, or in reset, or when it is made."""

    def __init__(self, fault: str) -> None:
        if fault == "constructor":
            raise RuntimeError("no such device")
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        if self.fault == "reset":
            raise KeyError("position")
        if self.fault == "reset info none":
            return np.zeros(4, np.float32), None
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> Any:
        self.time += 1
        obs, reward, terminated = np.zeros(4, np.float32), 1.0, self.time == 10
        if self.time == 3:
            match self.fault:
                case "raises":
                    raise ZeroDivisionError("division by zero")
                case "nan":
                    obs = np.array([0, 0, np.nan, 0], np.float32)
                case "infinite":
                    obs = np.array([0, np.inf, 0, 0], np.float32)
                case "shape":
                    obs = np.zeros(5, np.float32)
                case "dtype":
                    obs = np.array(["a", "b", "c", "d"])
                case "reward none":
                    reward = None  # type: ignore[assignment]
                case "reward nan":
                    reward = float("nan")
                case "flag":
                    terminated = "yes"  # type: ignore[assignment]
                case "four values":
                    return obs, reward, terminated, {}
                case "none":
                    return None
                case "dies":
                    os._exit(3)
                case "info none":
                    return obs, reward, terminated, False, None
        return obs, reward, terminated, False, {}


class Image(gymnasium.Env):
    """Images of one shape, with noise."""

    def __init__(self, shape: tuple[int, ...] = (48, 40, 3)) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.integers(256, size=self.observation_space.shape, dtype=np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        obs = self.np_random.integers(256, size=self.observation_space.shape, dtype=np.uint8)
        return obs, 0.0, self.time == 12, False, {}


class Spaces(gymnasium.Env):
    """Samples observations of any space, and checks that actions belong to theirs."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time == 9, {}
