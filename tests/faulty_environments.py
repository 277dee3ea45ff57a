"""Environments that go wrong, once or always, in this process or in a worker; and one that never repeats itself."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Repeating(gymnasium.Env):
    """A walk that its seed and its actions decide, with episodes of 5 to 14 steps and an observation of `width`."""

    def __init__(self, width: int = 3) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, self.end = 0, int(self.np_random.integers(5, 15))
        self.place = self.np_random.normal(size=self.observation_space.shape).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action: int) -> Any:
        self.time += 1
        self.place = np.tanh(self.place + self.np_random.normal(size=self.place.shape) + (action - 1) / 3)
        self.place = self.place.astype(np.float32)
        return self.place.copy(), float(self.place[0]), self.time >= self.end, False, {}


class Succeeding(Repeating):
    """Says of most episodes at their end whether they succeeded."""

    def step(self, action: int) -> Any:
        *result, ended, truncated, info = super().step(action)
        if ended and self.end % 4:
            info["is_success"] = self.place[0] > 0
        return *result, ended, truncated, info


class Waits(gymnasium.Env):
    """Episode k brings k + 1; as the second environment of its process, the fourth says so and waits to be stopped.

    It does so where there is a file "wait". The second environment is that of the final evaluation.
    """

    made = 0

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        Waits.made += 1
        self.is_second, self.episode = Waits.made == 2, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        if self.is_second and self.episode == 4 and Path("wait").exists():
            print("The environment waits.", file=sys.stderr, flush=True)
            while True:
                time.sleep(0.05)
        return np.ones(2, np.float32), float(self.episode), True, False, {"is_success": self.episode % 2}


class Mutating(Repeating):
    """Goes on writing into the observation that it returned."""

    def step(self, action: int) -> Any:
        if hasattr(self, "given"):
            self.given[:] = np.nan
        self.given, *rest = super().step(action)
        return self.given, *rest


class Unrepeatable(Repeating):
    """Draws from the system's own randomness, whatever its seed; with `sometimes`, at every other episode."""

    def __init__(self, sometimes: bool = False) -> None:
        super().__init__()
        self.sometimes, self.count = sometimes, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.count += 1
        return super().reset(seed=seed if self.sometimes and self.count % 2 else None)


class Breaks(Repeating):
    """Does one thing wrong `at` a step of its seventh episode, while the file `until` is not there.

    A fault that ends in " once" makes that file itself, so that only the first to come there goes wrong.
    """

    def __init__(self, fault: str, until: str, at: int = 3) -> None:
        self.fault, self.until, self.at = fault, Path(until), at
        self.episodes = 0
        super().__init__()
        if self._now("constructor"):
            raise RuntimeError("no such device")

    def _now(self, *faults: str) -> bool:
        name = self.fault.removesuffix(" once")
        if name not in faults:
            return False
        try:
            if name == self.fault:
                return not self.until.exists()
            os.close(os.open(self.until, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        if self.episodes >= 7 and self._now("reset"):
            raise KeyError("position")
        return super().reset(seed=seed)

    def step(self, action: int) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        # Known by what an episode is, not by how many there were: a new worker comes to the same place.
        if self.time == self.at and self.end >= 9:
            if self._now("raises"):
                raise ZeroDivisionError("division by zero")
            if self._now("hangs"):
                time.sleep(10_000)
            if self._now("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._now("segfault"):
                faulthandler.disable()
                ctypes.string_at(0)
            if self._now("nan"):
                obs[1] = np.nan
            if self._now("shape"):
                obs = np.zeros(5, np.float32)
            if self._now("dtype"):
                obs = np.array(["a", "b", "c"])
            if self._now("reward none"):
                reward = None
            if self._now("reward infinite"):
                reward = float("inf")
            if self._now("four values"):
                return obs, reward, terminated, info
        return obs, reward, terminated, truncated, info


class Corridor(gymnasium.Env):
    """Five numbered places; its fault is a place that the space does not have."""

    def __init__(self, until: str) -> None:
        self.observation_space, self.action_space = spaces.Discrete(5), spaces.Discrete(2)
        self.until = Path(until)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.time = 0, 0
        return 0, {}

    def step(self, action: int) -> Any:
        self.time += 1
        self.place = min(4, self.place + action)
        beyond = self.time == 40 and not self.until.exists()
        return 5 if beyond else self.place, float(self.place == 4), False, self.time == 60, {}


class Exploding(Repeating):
    """Its rewards become too large for float32."""

    def step(self, action: int) -> Any:
        obs, reward, *rest = super().step(action)
        self.steps = getattr(self, "steps", 0) + 1
        return obs, 1e300 if self.steps > 250 else reward, *rest
