"""How a policy is judged while it is trained and at the end: greedy episodes, for which the clocks stand still.

The policies of all libraries meet the same episodes in the same plain environments.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from upright.settings.config import FINAL_EPISODES

# Greedy actions [E] for observations [E, ...] and, where the environment tells one, masks of allowed actions [E, A].
Policy = Callable[[Any, Any], Any]

POINTS = 20  # of a learning curve, at equal steps
INTERIM_EPISODES = 20
# Seeds of the greedy episodes: the same for all, the final ones others than the interim ones.
INTERIM_SEED, FINAL_SEED = 10_000_000, 20_000_000
SIDE_BY_SIDE = 20
LIMIT = 1_000  # steps of an episode where the environment names none, as CliffWalking


def episodes(env: str, policy: Policy, count: int, first_seed: int) -> list[float]:
    """The undiscounted returns of greedy episodes, in the order of their seeds.

    Up to 20 are played side by side. An episode that has ended when none is left to begin stays in the batch, and its
    action is not played: JAX would compile a batch that shrinks again at each size.
    """
    together = min(count, SIDE_BY_SIDE)
    limit = None if gymnasium.spec(env).max_episode_steps else LIMIT
    environments = [gymnasium.make(env, max_episode_steps=limit) for _ in range(together)]
    returns = [0.0] * count
    begun = [environments[k].reset(seed=first_seed + k) for k in range(together)]
    observations: list[Any] = [each[0] for each in begun]
    masks: list[Any] = [each[1].get("action_mask") for each in begun]
    playing: list[int | None] = list(range(together))
    waiting = iter(range(together, count))
    while any(k is not None for k in playing):
        actions = policy(np.stack(observations), None if masks[0] is None else np.stack(masks))
        for place, k in enumerate(playing):
            if k is None:
                continue
            observation, reward, terminated, truncated, info = environments[place].step(int(actions[place]))
            returns[k] += float(reward)
            if terminated or truncated:
                playing[place] = k = next(waiting, None)
                if k is None:
                    continue
                observation, info = environments[place].reset(seed=first_seed + k)
            observations[place], masks[place] = observation, info.get("action_mask")
    for environment in environments:
        environment.close()
    return returns


class Watch:
    """The clocks of a training, which stand still while its policy is judged, and its learning curve.

    curve: [step, mean return of greedy episodes, processor seconds so far] at 20 equal steps, the last in the end
    """

    def __init__(self, env: str, steps: int) -> None:
        self.env = env
        self._points = iter([steps * k // POINTS for k in range(1, POINTS)])
        self._next = next(self._points)
        self.steps = 0
        self.wall = self.cpu = 0.0
        self.curve: list[list[float]] = []
        self.returns: list[float] = []

    def start(self) -> None:
        """Let the clocks run."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __call__(self, steps: int, policy: Policy) -> None:
        """Judge the policy if the next point of the curve has come."""
        if steps < self._next:
            return
        self._judge(steps, policy)
        while steps >= self._next:
            self._next = next(self._points, sys.maxsize)
        self.start()

    def finish(self, steps: int, policy: Policy) -> None:
        """Judge the final policy: as the curve's last point, and by the episodes that count."""
        if not self.curve or self.curve[-1][0] < steps:
            self._judge(steps, policy)
        self.steps = steps
        self.returns = [round(each, 2) for each in episodes(self.env, policy, FINAL_EPISODES, FINAL_SEED)]

    def _judge(self, steps: int, policy: Policy) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu
        returns = episodes(self.env, policy, INTERIM_EPISODES, INTERIM_SEED)
        self.curve.append([steps, round(sum(returns) / len(returns), 3), round(self.cpu, 2)])
